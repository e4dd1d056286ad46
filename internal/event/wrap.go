package event

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// TypeRecord is the type of the events that Wrap makes.
const TypeRecord = "kafka.record"

// Wrap makes an event of a record that is none. It reads nothing in it as an
// attribute, so who writes to the topic decides about data, subject and trace
// alone. The same record always makes the same event; its id is its place:
//
//	id                    <topic>/<partition>/<offset>
//	source, type          kafka:<topic>, kafka.record
//	subject, partitionkey the key, if it is printable text and fits
//	time                  the record's
//	datacontenttype       the header content-type, unless the value shows that it is wrong,
//	                      or it would make the data an event; else application/json for
//	                      JSON, application/octet-stream for the rest
//	traceparent, tracestate  the headers
//	data                  the value
//
// A tombstone has neither data nor datacontenttype. What cannot be an attribute is
// left out. The only error is an *InvalidError for a value longer than MaxBytes.
func Wrap(topic string, partition int, offset int64, r Record) (Event, error) {
	if len(r.Value) > MaxBytes {
		return Event{}, invalid("", "the record is longer than %d bytes", MaxBytes)
	}
	var b builder
	for _, a := range [][2]string{
		{"specversion", specVersion}, {"id", fmt.Sprintf("%s/%d/%d", topic, partition, offset)}, {"source", "kafka:" + topic}, {"type", TypeRecord},
	} {
		if err := b.setText(a[0], a[1]); err != nil {
			return Event{}, err
		}
	}
	b.wrapKey(string(r.Key))
	b.wrapTime(r.Time)
	b.wrapTrace(r.Headers)
	if r.Value == nil {
		return b.event(nil)
	}
	b.wrapType(r)
	return b.event(bytes.Clone(r.Value)) // records share the buffer of a fetch
}

// wrapKey sets both attributes or none.
func (b *builder) wrapKey(key string) {
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }
	if strings.TrimSpace(key) == "" || strings.ContainsFunc(key, unprintable) {
		return
	}
	if b.attempt(func() error { return b.setText("subject", key) }) {
		b.attempt(func() error { return b.setText(PartitionKey, key) })
	}
}

// wrapTime leaves out a time that the record does not have.
func (b *builder) wrapTime(t time.Time) {
	if t.IsZero() || t.UnixMilli() == -1 { // Kafka's own sign for none
		return
	}
	b.attempt(func() error { return b.setText("time", t.UTC().Format(time.RFC3339Nano)) })
}

func (b *builder) wrapTrace(headers []Header) {
	set := func(name string) bool {
		for _, h := range headers {
			if strings.EqualFold(h.Key, name) && len(h.Value) > 0 {
				return b.attempt(func() error { return b.setText(name, string(h.Value)) })
			}
		}
		return false
	}
	if set(TraceParent) {
		set(TraceState)
	}
}

// wrapType does not let a record pass for an event in a form that a sink reads as
// one, and promises no JSON that the value is not.
func (b *builder) wrapType(r Record) {
	isJSON := jsontext.Value(r.Value).IsValid()
	contentType, ok, err := r.contentType()
	if ok && err == nil && b.attempt(func() error {
		m, err := mediaType(contentType)
		if err != nil || strings.HasPrefix(m, "application/cloudevents") || (jsonType(&contentType) && !isJSON && len(r.Value) > 0) {
			return invalid("datacontenttype", "does not fit the value")
		}
		return b.setText("datacontenttype", contentType)
	}) {
		return
	}
	contentType = "application/octet-stream"
	if isJSON {
		contentType = mediaJSON
	}
	b.attempt(func() error { return b.setText("datacontenttype", contentType) })
}
