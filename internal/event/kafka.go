package event

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
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
	ModeEnvelope   Mode = "envelope"   // the plain JSON envelope of publishers without CloudEvents
)

// FromRecord reads the event of a record, whoever wrote it, and returns the
// form it was in. The value of a structured record may be passed on unchanged.
// Its error is an *InvalidError.
func FromRecord(r Record) (Event, Mode, error) {
	switch {
	case r.Value == nil:
		return Event{}, "", invalid("", "the record is a tombstone, it has no value")
	case len(r.Value) > MaxBytes:
		return Event{}, "", invalid("", "the record is longer than %d bytes", MaxBytes)
	}
	contentType, _, err := r.contentType()
	if err != nil {
		return Event{}, "", err
	}
	m, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	switch m = strings.TrimSpace(m); {
	case m == mediaStructured:
		e, err := Parse(r.Value)
		return e, ModeStructured, err
	case strings.HasPrefix(m, "application/cloudevents"):
		return Event{}, "", invalid("", "the record is in a CloudEvents format other than JSON, or a batch")
	}
	for _, h := range r.Headers {
		if _, ok := attributeName(h.Key); ok {
			e, err := fromBinary(r)
			return e, ModeBinary, err
		}
	}
	return fromBare(r)
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

// fromBare reads a value whose headers do not say what it is. It recognises the
// form by a member that only this form has, wherever that member stands. So it
// collects the structured form until it knows, and what is wrong with that form
// counts only if it is the form.
func fromBare(r Record) (Event, Mode, error) {
	var s structured
	var wrong error
	var isStructured, isEnvelope bool
	err := members(r.Value, func(name string, v jsontext.Value) error {
		isStructured = isStructured || name == "specversion"
		isEnvelope = isEnvelope || name == "event_id"
		if wrong == nil {
			wrong = s.member(name, v)
		}
		return nil
	})
	switch {
	case err != nil:
		return Event{}, "", err
	case isStructured && wrong != nil:
		return Event{}, ModeStructured, wrong
	case isStructured:
		e, err := s.event()
		return e, ModeStructured, err
	case isEnvelope:
		e, err := fromEnvelope(r)
		return e, ModeEnvelope, err
	}
	return Event{}, "", invalid("specversion", "is missing, and so is event_id")
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

// attributeName reads the key of a header. Writers differ in the case of their
// keys; two keys that differ only in case are one attribute given twice.
func attributeName(key string) (string, bool) {
	return strings.CutPrefix(strings.ToLower(key), "ce_")
}

// setHeader sets an attribute that came in a header of its own.
func (b *builder) setHeader(name, value string) error {
	if name == "datacontenttype" {
		return invalid(name, "belongs in the content-type header")
	}
	return b.set(name, value)
}

// Structured is the record of an event: body is its structured form, key its
// partition key.
func Structured(key string, body []byte) Record {
	return Record{
		Key:     []byte(key),
		Value:   body,
		Headers: []Header{{Key: "content-type", Value: []byte(KafkaContentType)}},
	}
}

// Binary is the record of e with its attributes in headers and its data as
// value, keyed by the partition key.
func Binary(e Event) (Record, error) {
	list, data, _, err := parts(e)
	if err != nil {
		id, _ := Attribute(e, "id")
		return Record{}, fmt.Errorf("encode event %s: %w", id, err)
	}
	r := Record{Value: data, Headers: make([]Header, 0, len(list))}
	if r.Value == nil {
		r.Value = []byte{} // null would be a tombstone
	}
	for _, a := range list {
		name := "ce_" + a.name
		switch a.name {
		case "datacontenttype":
			name = "content-type"
		case PartitionKey:
			r.Key = []byte(a.text)
		}
		r.Headers = append(r.Headers, Header{Key: name, Value: []byte(a.text)})
	}
	return r, nil
}
