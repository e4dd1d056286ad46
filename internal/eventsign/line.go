package eventsign

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// VerifyLine is Verify for a line of the audit log, with or without its line feed.
// signed is false for a source without keys. Its error is an *Error, or says why the
// line is none.
func (k Keys) VerifyLine(line []byte) (signed bool, err error) {
	l, err := parseLine(line)
	if err != nil {
		return false, fmt.Errorf("not a line of an audit log: %w", err)
	}
	known, ok := k[l.source]
	if !ok {
		return false, nil
	}
	if l.signature == nil {
		return false, missing()
	}
	err = check(known, *l.signature, func() []byte { return message(l.attrs, l.data) })
	return err == nil, err
}

// entry is the event in a line. The members seq and audited_at are the auditor's.
type entry struct {
	attrs     []attribute
	source    string
	signature *string
	data      []byte
}

func parseLine(line []byte) (entry, error) {
	var l entry
	err := members(line, l.member)
	if err == nil && l.source == "" {
		err = errors.New("it has no source")
	}
	return l, err
}

func (l *entry) member(name string, value jsontext.Value) error {
	switch name {
	case "event_id":
		return l.set("id", value)
	case "event_type":
		return l.set("type", value)
	case "occurred_at":
		return l.set("time", value)
	case "metadata":
		return members(value, func(name string, value jsontext.Value) error {
			if name == "correlation_id" {
				name = "correlationid"
			}
			return l.set(name, value)
		})
	case "attributes":
		return members(value, l.set)
	case "data", "data_base64":
		return l.setData(name, value)
	case "seq", "audited_at":
		return nil
	}
	return fmt.Errorf("it has the member %q", name)
}

// set keeps the text of an attribute; null says that the event has none.
func (l *entry) set(name string, value jsontext.Value) error {
	var text string
	switch value.Kind() {
	case 'n':
		return nil
	case '"':
		s, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return err
		}
		text = string(s)
	case '0', 't', 'f':
		text = string(value)
	default:
		return fmt.Errorf("the attribute %q is no scalar", name)
	}
	switch name {
	case Attribute:
		if l.signature != nil {
			return errors.New("it has two signatures")
		}
		l.signature = &text
		return nil
	case "source":
		if l.source != "" {
			return errors.New("it has two sources")
		}
		l.source = text
	}
	l.attrs = append(l.attrs, attribute{name, text})
	return nil
}

func (l *entry) setData(name string, value jsontext.Value) error {
	if l.data != nil {
		return errors.New("it has two data")
	}
	if name == "data" {
		l.data = bytes.Clone(value)
		return nil
	}
	if value.Kind() != '"' {
		return errors.New("data_base64 is no string")
	}
	text, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return err
	}
	l.data, err = base64.StdEncoding.Strict().AppendDecode([]byte{}, text)
	return err
}

// members calls yield for each member of one object. A name that comes twice is an error.
func members(object []byte, yield func(name string, value jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if dec.PeekKind() != '{' {
		return errors.New("it is no JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if err := yield(name, value); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something comes after the JSON object")
	}
	return nil
}
