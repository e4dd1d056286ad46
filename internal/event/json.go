package event

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Parse reads one event in the JSON format (structured mode).
func Parse(body []byte) (Event, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	e, err := decode(dec)
	if err != nil {
		return Event{}, err
	}
	return e, atEnd(dec)
}

// ParseBatch reads an array of events; an empty one is a batch of none.
func ParseBatch(body []byte) ([]Event, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return nil, invalid("event", "the batch is not a JSON array")
	}
	events := []Event{}
	for dec.PeekKind() != ']' {
		e, err := decode(dec)
		if err != nil {
			var inv *InvalidError
			if errors.As(err, &inv) {
				return nil, invalid(inv.Attribute, "%s (event %d of the batch)", inv.Reason, len(events))
			}
			return nil, err
		}
		events = append(events, e)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	return events, atEnd(dec)
}

func atEnd(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return invalid("event", "something follows its end")
	}
	return nil
}

func syntax(err error) error {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return invalid("event", "has a member twice")
	}
	return invalid("event", "is not valid JSON")
}

func decode(dec *jsontext.Decoder) (Event, error) {
	if dec.PeekKind() != '{' {
		return Event{}, invalid("event", "is not a JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return Event{}, syntax(err)
	}
	e := blank()
	var data, base64Data []byte
	sawVersion := false
	for dec.PeekKind() != '}' {
		tok, err := dec.ReadToken()
		if err != nil {
			return Event{}, syntax(err)
		}
		name := tok.String()
		value, err := dec.ReadValue()
		if err != nil {
			return Event{}, syntax(err)
		}
		switch {
		case name == "data":
			data = bytes.Clone(value) // the decoder reuses its buffer
		case value.Kind() == 'n': // null means not set
		case name == "data_base64":
			base64Data = bytes.Clone(value)
		default:
			if err := member(&e, name, value); err != nil {
				return Event{}, err
			}
			sawVersion = sawVersion || name == "specversion"
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return Event{}, syntax(err)
	}
	if err := complete(e, sawVersion); err != nil {
		return Event{}, err
	}
	return e, setData(&e, data, base64Data)
}

func member(e *Event, name string, value jsontext.Value) error {
	switch value.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return invalid(name, "is not a valid string")
		}
		return set(e, name, string(text))
	case 't', 'f':
		return set(e, name, value.Kind() == 't')
	case '0':
		n, err := strconv.ParseInt(string(value), 10, 32)
		if err != nil {
			return invalid(name, "is not a 32-bit integer")
		}
		return set(e, name, int32(n))
	}
	return invalid(name, "is neither string, boolean nor integer")
}

func setData(e *Event, data, base64Data []byte) error {
	switch {
	case data != nil && base64Data != nil:
		return invalid("data", "stands beside data_base64")
	case base64Data != nil:
		text, err := jsontext.AppendUnquote(nil, base64Data)
		if err != nil {
			return invalid("data_base64", "is not a string")
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(string(text))
		if err != nil {
			return invalid("data_base64", "is not base64")
		}
		e.DataEncoded, e.DataBase64 = raw, true
	case data != nil && data[0] == '"' && !isJSON(e.DataContentType()):
		// Text of another type travels as a JSON string.
		text, err := jsontext.AppendUnquote(nil, data)
		if err != nil {
			return invalid("data", "is not a valid string")
		}
		e.DataEncoded = text
	case data != nil:
		e.DataEncoded = data
	}
	return nil
}

// Append writes e in the JSON format: members in a fixed order, the data's
// bytes as they are. What is not JSON and not text goes to data_base64.
func Append(dst []byte, e Event) ([]byte, error) {
	dst = append(dst, '{')
	for i, name := range Attributes(e) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), name...), '"', ':')
		var err error
		if dst, err = appendAttribute(dst, e, name); err != nil {
			return nil, invalid(name, "cannot be written: %v", err)
		}
	}
	dst, err := appendData(dst, e)
	if err != nil {
		return nil, err
	}
	return append(dst, '}'), nil
}

func appendAttribute(dst []byte, e Event, name string) ([]byte, error) {
	switch v := e.Extensions()[name].(type) {
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int32:
		return strconv.AppendInt(dst, int64(v), 10), nil
	}
	text, _ := Attribute(e, name)
	return jsontext.AppendQuote(dst, text)
}

func appendData(dst []byte, e Event) ([]byte, error) {
	if e.DataEncoded == nil {
		return dst, nil
	}
	if !e.DataBase64 && isJSON(e.DataContentType()) {
		if !jsontext.Value(e.DataEncoded).IsValid() {
			return nil, invalid("data", "is not the JSON its content type says")
		}
		return append(append(dst, `,"data":`...), e.DataEncoded...), nil
	}
	if !e.DataBase64 && utf8.Valid(e.DataEncoded) {
		return jsontext.AppendQuote(append(dst, `,"data":`...), e.DataEncoded)
	}
	dst = append(dst, `,"data_base64":"`...)
	dst = slices.Grow(dst, base64.StdEncoding.EncodedLen(len(e.DataEncoded))+2)
	return append(base64.StdEncoding.AppendEncode(dst, e.DataEncoded), '"'), nil
}
