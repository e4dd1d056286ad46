package event

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Content types of the structured and batch forms. JSON is UTF-8 by definition;
// the parameter is what the Kafka binding's examples carry.
const (
	mediaStructured = "application/cloudevents+json"
	mediaBatch      = "application/cloudevents-batch+json"
	utf8Parameter   = "; charset=UTF-8"
)

// Header is one header of a Kafka record.
type Header struct {
	Key   string
	Value []byte
}

// Record is the part of a Kafka record that an event is made of.
type Record struct {
	Key, Value []byte // nil is Kafka's null: a nil Value is a tombstone
	Headers    []Header
	Time       time.Time
}

// Mode is the form of an event in a Kafka record.
type Mode string

// The forms that FromRecord reads.
const (
	ModeStructured Mode = "structured" // the value is the event
	ModeBinary     Mode = "binary"     // headers ce_*, the value is the data
	ModeEnvelope   Mode = "envelope"   // the plain JSON envelope of publishers that know no CloudEvents
)

// Mode tells the form of r: from its headers, or from the value's members when
// the writer set none. A structured value may be passed on as it is.
func (r Record) Mode() (Mode, error) {
	switch {
	case r.Value == nil:
		return "", invalid("", "the record is a tombstone, it has no value")
	case len(r.Value) > MaxBytes:
		return "", invalid("", "the record is longer than %d bytes", MaxBytes)
	}
	contentType, _, err := r.contentType()
	if err != nil {
		return "", err
	}
	m, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	switch m = strings.TrimSpace(m); {
	case m == mediaStructured:
		return ModeStructured, nil
	case strings.HasPrefix(m, "application/cloudevents"):
		return "", invalid("", "the record is in a CloudEvents format other than JSON, or a batch")
	}
	for _, h := range r.Headers {
		if _, ok := attributeName(h.Key); ok {
			return ModeBinary, nil
		}
	}
	return bareMode(r.Value)
}

// bareMode recognises a value without headers by a member that only its form has.
func bareMode(value []byte) (Mode, error) {
	var mode Mode
	err := members(value, func(name string, _ jsontext.Value) error {
		switch {
		case name == "specversion":
			mode = ModeStructured
		case name == "event_id" && mode == "":
			mode = ModeEnvelope
		}
		return nil
	})
	if err == nil && mode == "" {
		err = invalid("specversion", "is missing, and so is event_id")
	}
	return mode, err
}

func (r Record) contentType() (value string, ok bool, err error) {
	for _, h := range r.Headers {
		if !strings.EqualFold(h.Key, "content-type") {
			continue
		}
		if ok {
			return "", false, invalid("datacontenttype", "is given twice")
		}
		value, ok = string(h.Value), true
	}
	return value, ok, nil
}

// FromRecord reads the event of a record, whoever wrote it. Its error is an
// *InvalidError.
func FromRecord(r Record) (Event, error) {
	mode, err := r.Mode()
	if err != nil {
		return Event{}, err
	}
	switch mode {
	case ModeStructured:
		return Parse(r.Value)
	case ModeEnvelope:
		return fromEnvelope(r.Value)
	}
	return fromBinary(r)
}

func fromBinary(r Record) (Event, error) {
	b := builder{untyped: true}
	for _, h := range r.Headers {
		name, ok := attributeName(h.Key)
		if !ok {
			continue
		}
		if err := b.setHeader(name, string(h.Value)); err != nil {
			return Event{}, err
		}
	}
	contentType, ok, err := r.contentType()
	if err != nil {
		return Event{}, err
	}
	if ok {
		if err := b.set("datacontenttype", contentType); err != nil {
			return Event{}, err
		}
	}
	return b.event(bytes.Clone(r.Value)) // records share the buffer of a fetch
}

// attributeName reads the key of a header. Writers differ in the case of
// theirs; a name that two of them share is given twice.
func attributeName(key string) (string, bool) {
	return strings.CutPrefix(strings.ToLower(key), "ce_")
}

// IsStructured says whether the value of r is the structured form. Such a value
// may be passed on as it is once FromRecord has accepted it.
func IsStructured(r Record) bool {
	mode, err := r.Mode()
	return err == nil && mode == ModeStructured
}

// setHeader sets an attribute that came in a header of its own.
func (b *builder) setHeader(name, value string) error {
	if name == "datacontenttype" {
		return invalid(name, "belongs into the content-type header")
	}
	return b.set(name, value)
}

// Structured is the record of e whose value is the structured JSON form, keyed
// by the partition key.
func Structured(e Event) (Record, error) {
	body, err := Append(nil, e)
	if err != nil {
		return Record{}, fmt.Errorf("encode event %s: %w", id(e), err)
	}
	return Record{
		Key:     key(e),
		Value:   body,
		Headers: []Header{{Key: "content-type", Value: []byte(mediaStructured + utf8Parameter)}},
	}, nil
}

// Binary is the record of e with its attributes in headers and its data as
// value, keyed by the partition key.
func Binary(e Event) (Record, error) {
	list, data, err := parts(e)
	if err != nil {
		return Record{}, fmt.Errorf("encode event %s: %w", id(e), err)
	}
	r := Record{Key: key(e), Value: data}
	if r.Value == nil {
		r.Value = []byte{} // null would be a tombstone
	}
	for _, a := range list {
		name := "ce_" + a.name
		if a.name == "datacontenttype" {
			name = "content-type"
		}
		r.Headers = append(r.Headers, Header{Key: name, Value: []byte(a.text)})
	}
	return r, nil
}

// parts is what the binary forms are made of.
func parts(e Event) ([]attribute, []byte, error) {
	list, err := attributes(e)
	if err != nil {
		return nil, nil, err
	}
	c, err := context(e)
	if err != nil {
		return nil, nil, err
	}
	data, _, err := payload(c.DataContentType, e.DataEncoded, false)
	return list, data, err
}

func key(e Event) []byte {
	if k, ok := Attribute(e, PartitionKey); ok {
		return []byte(k)
	}
	return nil
}

func id(e Event) string {
	s, _ := Attribute(e, "id")
	return s
}
