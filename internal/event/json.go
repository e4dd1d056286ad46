package event

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Parse reads the structured JSON form, strictly. Its error is an *InvalidError.
func Parse(body []byte) (Event, error) {
	if len(body) > MaxBytes {
		return Event{}, invalid("", "it is longer than %d bytes", MaxBytes)
	}
	var s structured
	if err := members(body, s.member); err != nil {
		return Event{}, err
	}
	return s.event()
}

// decoders keeps decoders with their state for the next text.
var decoders = sync.Pool{New: func() any { return &decoder{Decoder: jsontext.NewDecoder(bytes.NewReader(nil))} }}

type decoder struct {
	*jsontext.Decoder
	buffer bytes.Buffer
}

// decode lets f read body, which f must not keep.
func decode(body []byte, f func(*jsontext.Decoder) error) error {
	d := decoders.Get().(*decoder)
	d.buffer = *bytes.NewBuffer(body)
	d.Reset(&d.buffer)
	err := f(d.Decoder)
	d.buffer = bytes.Buffer{}
	d.Reset(&d.buffer) // it must not keep the body alive
	decoders.Put(d)
	return err
}

// structured collects the members of the structured form.
type structured struct {
	builder
	data, encoded jsontext.Value
}

func (s *structured) member(name string, v jsontext.Value) error {
	switch name {
	case "data":
		s.data = bytes.Clone(v)
		return nil
	case "data_base64":
		s.encoded = bytes.Clone(v)
		return nil
	}
	return s.setJSON(name, v)
}

func (s *structured) event() (Event, error) {
	if err := s.required(); err != nil {
		return Event{}, err
	}
	if s.data != nil && s.encoded == nil && jsonType(s.ctx.DataContentType) {
		return s.finish(s.data, dataJSON), nil // the decoder has checked it
	}
	raw, err := s.rawData()
	if err != nil {
		return Event{}, err
	}
	return s.builder.event(raw)
}

// rawData is the bytes behind the members data and data_base64.
func (s *structured) rawData() ([]byte, error) {
	if s.data != nil && s.encoded != nil {
		return nil, invalid("data", "is given twice, as data and as data_base64")
	}
	if s.encoded != nil && s.encoded.Kind() != jsontext.KindNull {
		text, err := jsontext.AppendUnquote(nil, s.encoded)
		if err != nil {
			return nil, invalid("data_base64", "is not a string")
		}
		return decodeBase64(text)
	}
	if s.data == nil {
		return nil, nil
	}
	switch s.data.Kind() { // by its content type it is not JSON
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindString:
		return jsontext.AppendUnquote(nil, s.data)
	}
	return nil, invalid("data", "is not a string, though datacontenttype says it is not JSON")
}

// parseBatch reads the JSON batch form: an array, possibly empty, of events.
func parseBatch(body []byte) ([]Event, error) {
	if len(body) > MaxBytes {
		return nil, invalid("", "it is longer than %d bytes", MaxBytes)
	}
	events := []Event{}
	err := decode(body, func(d *jsontext.Decoder) error {
		if err := expect(d, jsontext.KindBeginArray, "the batch is not a JSON array"); err != nil {
			return err
		}
		for d.PeekKind() != jsontext.KindEndArray {
			var s structured
			err := object(d, s.member)
			var e Event
			if err == nil {
				e, err = s.event()
			}
			if bad := (*InvalidError)(nil); errors.As(err, &bad) {
				return bad.at(len(events))
			}
			events = append(events, e)
		}
		return end(d)
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// setJSON sets an attribute from its JSON value. In this format null means not set.
func (b *builder) setJSON(name string, v jsontext.Value) error {
	switch v.Kind() {
	case jsontext.KindNull:
		return checkName(name)
	case jsontext.KindString:
		if bytes.IndexByte(v, '\\') < 0 { // nearly always; the decoder has checked that it is UTF-8
			return b.setText(name, b.keep(v[1:len(v)-1]))
		}
		s, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return invalid(name, "is not UTF-8")
		}
		return b.setText(name, b.keep(s))
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

// members calls f for each member of the one JSON object that body must be. v
// is valid only during the call.
func members(body []byte, f func(name string, v jsontext.Value) error) error {
	return decode(body, func(d *jsontext.Decoder) error {
		if err := object(d, f); err != nil {
			return err
		}
		return over(d)
	})
}

// object is members for the object that d reads next.
func object(d *jsontext.Decoder, f func(name string, v jsontext.Value) error) error {
	if err := expect(d, jsontext.KindBeginObject, "it is not a JSON object"); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndObject {
		quoted, err := d.ReadValue()
		if err != nil {
			return syntax(err)
		}
		name := memberName(quoted)
		v, err := d.ReadValue()
		if err != nil {
			return syntax(err)
		}
		if err := f(name, v); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return syntax(err)
	}
	return nil
}

// memberName allocates nothing for the names of our own events.
func memberName(quoted jsontext.Value) string {
	switch string(quoted) {
	case `"specversion"`:
		return "specversion"
	case `"id"`:
		return "id"
	case `"source"`:
		return "source"
	case `"type"`:
		return "type"
	case `"subject"`:
		return "subject"
	case `"time"`:
		return "time"
	case `"datacontenttype"`:
		return "datacontenttype"
	case `"correlationid"`:
		return "correlationid"
	case `"partitionkey"`:
		return "partitionkey"
	case `"taskversion"`:
		return VersionOfTask
	case `"data"`:
		return "data"
	}
	name, _ := jsontext.AppendUnquote(nil, quoted) // the decoder has checked it
	return string(name)
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
	return over(d)
}

// over makes sure that nothing follows what was read.
func over(d *jsontext.Decoder) error {
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return invalid("", "bytes follow the JSON text")
	}
	return nil
}

// maxDepth is the JSON library's own limit; it has no name for the error.
const maxDepth = 10_000

func tooDeep(s *jsontext.SyntacticError) bool {
	return s.Err != nil && s.Err.Error() == "exceeded max depth"
}

// syntax describes a JSON error without repeating the input.
func syntax(err error) *InvalidError {
	at := ""
	if s := (*jsontext.SyntacticError)(nil); errors.As(err, &s) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return duplicate(s)
		}
		at = " at byte " + strconv.FormatInt(s.ByteOffset, 10)
		if tooDeep(s) {
			return invalid("", "it is nested deeper than %d levels%s", maxDepth, at)
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return invalid("", "the JSON text is cut off%s", at)
	}
	return invalid("", "it is not JSON in UTF-8%s", at)
}

// duplicate names the attribute that is given twice, if it is an attribute.
// Inside data, data itself is at fault.
func duplicate(s *jsontext.SyntacticError) *InvalidError {
	path := slices.Collect(s.JSONPointer.Tokens())
	if len(path) > 0 && path[0] != "data" && strings.Trim(path[0], "0123456789") == "" {
		path = path[1:] // the index of an event in a batch
	}
	switch {
	case len(path) == 1 && (checkName(path[0]) == nil || path[0] == "data"):
		return invalid(path[0], "is given twice")
	case len(path) > 1 && path[0] == "data":
		return invalid("data", "names a member twice")
	}
	return invalid("", "a member is named twice at byte %d", s.ByteOffset)
}
