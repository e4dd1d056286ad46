package event

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Parse reads the structured JSON form, strictly. Its error is an *InvalidError.
func Parse(body []byte) (Event, error) {
	if len(body) > MaxBytes {
		return Event{}, invalid("", "it is longer than %d bytes", MaxBytes)
	}
	var b builder
	var data, encoded jsontext.Value
	err := members(body, func(name string, v jsontext.Value) error {
		switch name {
		case "data":
			data = bytes.Clone(v)
			return nil
		case "data_base64":
			encoded = bytes.Clone(v)
			return nil
		}
		return b.setJSON(name, v)
	})
	if err != nil {
		return Event{}, err
	}
	if err := b.required(); err != nil {
		return Event{}, err
	}
	raw, err := jsonData(b.ctx.DataContentType, data, encoded)
	if err != nil {
		return Event{}, err
	}
	b.scanned = data != nil && isJSON(b.ctx.DataContentType)
	return b.event(raw)
}

// ParseBatch reads the JSON batch form: an array, possibly empty, of events.
func ParseBatch(body []byte) ([]Event, error) {
	if len(body) > MaxBytes {
		return nil, invalid("", "it is longer than %d bytes", MaxBytes)
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	if err := expect(d, jsontext.KindBeginArray, "the batch is not a JSON array"); err != nil {
		return nil, err
	}
	events := []Event{}
	for d.PeekKind() != jsontext.KindEndArray {
		v, err := d.ReadValue()
		if err != nil {
			return nil, syntax(err).at(len(events))
		}
		e, err := Parse(v)
		if bad := (*InvalidError)(nil); errors.As(err, &bad) {
			return nil, bad.at(len(events))
		}
		events = append(events, e)
	}
	return events, end(d)
}

// setJSON sets an attribute from its JSON value. The format reads null as not set.
func (b *builder) setJSON(name string, v jsontext.Value) error {
	switch v.Kind() {
	case jsontext.KindNull:
		return checkName(name)
	case jsontext.KindString:
		var stack [128]byte // long enough for all that our own events carry
		s, err := jsontext.AppendUnquote(stack[:0], v)
		if err != nil {
			return invalid(name, "is not UTF-8")
		}
		return b.setText(name, string(s))
	case jsontext.KindTrue, jsontext.KindFalse:
		return b.set(name, v.Kind() == jsontext.KindTrue)
	case jsontext.KindNumber:
		n, err := strconv.ParseInt(string(v), 10, 32)
		if err != nil {
			return invalid(name, "is not a 32-bit integer")
		}
		return b.set(name, int32(n))
	}
	if err := checkName(name); err != nil {
		return err
	}
	return invalid(name, "is not a string, an integer or a boolean")
}

// jsonData is the bytes behind the members data and data_base64.
func jsonData(contentType *string, data, encoded jsontext.Value) ([]byte, error) {
	if data != nil && encoded != nil {
		return nil, invalid("data", "is given twice, as data and as data_base64")
	}
	if encoded != nil && encoded.Kind() != jsontext.KindNull {
		s, err := jsontext.AppendUnquote(nil, encoded)
		if err != nil {
			return nil, invalid("data_base64", "is not a string")
		}
		return decodeBase64(s)
	}
	if data == nil || isJSON(contentType) {
		return data, nil
	}
	switch data.Kind() {
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindString:
		return jsontext.AppendUnquote(nil, data)
	}
	return nil, invalid("data", "is not a string, though datacontenttype says it is not JSON")
}

// Append adds the structured JSON form of e to dst: members in a fixed order,
// JSON data byte for byte. The same event always has the same form.
func Append(dst []byte, e Event) ([]byte, error) {
	list, err := attributes(e)
	if err != nil {
		return dst, err
	}
	c, err := context(e)
	if err != nil {
		return dst, err
	}
	data, binary, err := payload(c.DataContentType, e.DataEncoded, false)
	if err != nil {
		return dst, err
	}
	separator := byte('{')
	for _, a := range list {
		dst = append(dst, separator, '"')
		dst = append(dst, a.name...)
		dst = append(dst, '"', ':')
		if a.bare {
			dst = append(dst, a.text...)
		} else if dst, err = jsontext.AppendQuote(dst, a.text); err != nil {
			return dst, invalid(a.name, "is not UTF-8")
		}
		separator = ','
	}
	switch {
	case data == nil:
	case binary:
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, data)
		dst = append(dst, '"')
	case isJSON(c.DataContentType):
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	default:
		dst = append(dst, `,"data":`...)
		if dst, err = jsontext.AppendQuote(dst, data); err != nil {
			return dst, invalid("data", "is not UTF-8")
		}
	}
	return append(dst, '}'), nil
}

// members calls f for each member of the one JSON object that body must be. v
// is valid during the call only.
func members(body []byte, f func(name string, v jsontext.Value) error) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	if err := expect(d, jsontext.KindBeginObject, "it is not a JSON object"); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndObject {
		token, err := d.ReadToken()
		if err != nil {
			return syntax(err)
		}
		name := token.String()
		v, err := d.ReadValue()
		if err != nil {
			return syntax(err)
		}
		if err := f(name, v); err != nil {
			return err
		}
	}
	return end(d)
}

func expect(d *jsontext.Decoder, kind jsontext.Kind, otherwise string) error {
	token, err := d.ReadToken()
	if errors.Is(err, io.EOF) {
		return invalid("", "it is empty")
	}
	if err != nil {
		return syntax(err)
	}
	if token.Kind() != kind {
		return invalid("", "%s", otherwise)
	}
	return nil
}

// end reads the closing token and makes sure that nothing follows it.
func end(d *jsontext.Decoder) error {
	if _, err := d.ReadToken(); err != nil {
		return syntax(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return invalid("", "bytes follow the JSON text")
	}
	return nil
}

// syntax words a JSON error without the characters of the input.
func syntax(err error) *InvalidError {
	at := ""
	if s := (*jsontext.SyntacticError)(nil); errors.As(err, &s) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return duplicate(s)
		}
		at = " at byte " + strconv.FormatInt(s.ByteOffset, 10)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return invalid("", "the JSON text is cut off%s", at)
	}
	return invalid("", "it is not JSON in UTF-8%s", at)
}

// duplicate names the attribute that stands twice, if it is one: the last name on
// the way to the place. Inside of data it is data that is at fault.
func duplicate(s *jsontext.SyntacticError) *InvalidError {
	path := slices.Collect(s.JSONPointer.Tokens())
	if len(path) > 0 && path[0] != "data" && strings.Trim(path[0], "0123456789") == "" {
		path = path[1:] // an index: the text is a batch
	}
	switch {
	case len(path) == 1 && (checkName(path[0]) == nil || path[0] == "data"):
		return invalid(path[0], "is given twice")
	case len(path) > 1 && path[0] == "data":
		return invalid("data", "names a member twice")
	}
	return invalid("", "a member is named twice at byte %d", s.ByteOffset)
}
