package event

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// envelopeHeader begins the names of the record headers that carry what the
// plain envelope has no member for. It is not ce_: that would be binary mode.
const envelopeHeader = "taskwire-"

// Envelope is the record of a task event as the plain envelope
//
//	{"event_id", "event_type", "occurred_at", "data", "metadata": {"correlation_id", "source"}}
//
// keyed by the task's id. Attributes without a member travel in record headers,
// where consumers of envelopes do not look; FromRecord puts the same event
// together again. The trace has the header names that instrumentation knows.
func Envelope(e Event) (Record, error) {
	list, data, _, err := parts(e)
	if err != nil {
		id, _ := Attribute(e, "id")
		return Record{}, fmt.Errorf("encode event %s: %w", id, err)
	}
	texts := make(map[string]string, len(list))
	for _, a := range list {
		texts[a.name] = a.text
	}
	if err := envelopable(e, texts, data); err != nil {
		return Record{}, fmt.Errorf("encode event %s as an envelope: %w", texts["id"], err)
	}
	r := Record{Key: []byte(texts["subject"]), Value: appendEnvelope(nil, e.Time(), texts, data)}
	for _, a := range list {
		switch a.name {
		case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", CorrelationID, PartitionKey:
		case TraceParent, TraceState:
			r.Headers = append(r.Headers, Header{Key: a.name, Value: []byte(a.text)})
		default:
			r.Headers = append(r.Headers, Header{Key: envelopeHeader + a.name, Value: []byte(a.text)})
		}
	}
	return r, nil
}

// envelopable reports what of e reading its envelope would not bring back.
func envelopable(e Event, texts map[string]string, data []byte) error {
	task, err := Task(e)
	switch {
	case err != nil:
		return err
	case jsontext.Value(data).Kind() != jsontext.KindBeginObject:
		return invalid("data", "is not an object")
	case texts["time"] == "":
		return invalid("time", "is missing")
	case texts["datacontenttype"] != mediaJSON:
		return invalid("datacontenttype", "is not %s", mediaJSON)
	case texts["subject"] != task.TaskID || texts[PartitionKey] != task.TaskID:
		return invalid("subject", "or %s is not the task's id", PartitionKey)
	}
	if id, ok := texts[CorrelationID]; ok && id == "" {
		return invalid(CorrelationID, "is empty")
	}
	return nil
}

func appendEnvelope(b []byte, at time.Time, texts map[string]string, data []byte) []byte {
	var q quoter // parts has checked that all texts are UTF-8
	b = q.append(append(b, `{"event_id":`...), texts["id"])
	b = q.append(append(b, `,"event_type":`...), texts["type"])
	b = append(append(b, `,"occurred_at":"`...), isoformat(at)...)
	b = append(append(b, `","data":`...), data...)
	b = append(b, `,"metadata":{"correlation_id":`...)
	if id, ok := texts[CorrelationID]; ok {
		b = q.append(b, id)
	} else {
		b = append(b, "null"...)
	}
	b = q.append(append(b, `,"source":`...), texts["source"])
	return append(b, '}', '}')
}

// isoformat is at as Python's datetime.isoformat writes it and, in versions
// before 3.11, alone can read it: six digits or none, +00:00 for UTC. A finer
// time keeps its nanoseconds.
func isoformat(at time.Time) string {
	layout := "2006-01-02T15:04:05.000000"
	switch ns := at.Nanosecond(); {
	case ns == 0:
		layout = "2006-01-02T15:04:05"
	case ns%1000 != 0:
		layout = "2006-01-02T15:04:05.000000000"
	}
	return at.UTC().Format(layout) + "+00:00"
}

// fromEnvelope turns an envelope into the CloudEvent that says the same. What
// has no place of its own becomes an extension attribute or stays in the data.
func fromEnvelope(r Record) (Event, error) {
	b := builder{untyped: true}
	var data jsontext.Value
	var more extras
	source := Source // what the writers of envelopes mean when they leave it out
	err := members(r.Value, func(name string, v jsontext.Value) error {
		switch name {
		case "event_id":
			return b.setMember(name, "id", v)
		case "event_type":
			return b.setMember(name, "type", v)
		case "occurred_at":
			return b.setTime(name, v)
		case "data":
			data = bytes.Clone(v)
			return nil
		case "metadata":
			return b.setMetadata(v, &source, &more)
		}
		more.add(extra{name: name, value: bytes.Clone(v)})
		return nil
	})
	if err != nil {
		return Event{}, err
	}
	if data.Kind() != jsontext.KindBeginObject {
		return Event{}, invalid("data", "is not an object")
	}
	if err := b.setEnvelopeRest(source, data); err != nil {
		return Event{}, err
	}
	if err := b.setEnvelopeHeaders(r.Headers); err != nil {
		return Event{}, err
	}
	if data, err = more.keep(&b, data); err != nil {
		return Event{}, err
	}
	return b.event(data)
}

func (b *builder) setMetadata(v jsontext.Value, source *string, more *extras) error {
	if v.Kind() != jsontext.KindBeginObject {
		return invalid("metadata", "is not an object")
	}
	return members(v, func(name string, v jsontext.Value) error {
		switch name {
		case "correlation_id":
			if v.Kind() == jsontext.KindNull {
				return nil
			}
			return b.setMember("metadata.correlation_id", CorrelationID, v)
		case "source":
			s, err := text("metadata.source", v)
			*source = s
			return err
		}
		more.add(extra{name: name, value: bytes.Clone(v), metadata: true})
		return nil
	})
}

func (b *builder) setEnvelopeHeaders(headers []Header) error {
	for _, h := range headers {
		key := strings.ToLower(h.Key)
		if key == TraceParent || key == TraceState {
			// Instrumentation writes these too; the event does not depend on them.
			b.attempt(func() error { return b.setText(key, string(h.Value)) })
			continue
		}
		name, ok := strings.CutPrefix(key, envelopeHeader)
		if !ok {
			continue
		}
		if err := b.setText(name, string(h.Value)); err != nil {
			return err
		}
	}
	return nil
}

// attempt sets an attribute that may be left out; false if it cannot be set.
func (b *builder) attempt(set func() error) bool {
	names, size := b.names, b.size
	if set() == nil {
		return true
	}
	b.names, b.size = names, size
	return false
}

// setEnvelopeRest sets what the envelope implies but has no member for.
func (b *builder) setEnvelopeRest(source string, data jsontext.Value) error {
	values := [][2]string{{"specversion", specVersion}, {"source", source}, {"datacontenttype", mediaJSON}}
	err := members(data, func(name string, v jsontext.Value) error {
		if name != "task_id" {
			return nil
		}
		task, err := text("data.task_id", v)
		values = append(values, [2]string{"subject", task}, [2]string{PartitionKey, task})
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range values {
		if err := b.set(v[0], v[1]); err != nil {
			return err
		}
	}
	return nil
}

// setMember sets attribute from the envelope's member. Its errors name the member.
func (b *builder) setMember(member, attribute string, v jsontext.Value) error {
	s, err := text(member, v)
	if err != nil {
		return err
	}
	return b.set(attribute, s)
}

// setTime reads a time without a zone as UTC: Python's isoformat omits the zone
// of datetime.utcnow.
func (b *builder) setTime(member string, v jsontext.Value) error {
	s, err := text(member, v)
	if err != nil {
		return err
	}
	if _, err := time.Parse("2006-01-02T15:04:05.999999999", s); err == nil {
		s += "Z"
	}
	return b.set("time", s)
}

func text(member string, v jsontext.Value) (string, error) {
	if v.Kind() != jsontext.KindString {
		return "", invalid(member, "is not a string")
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "", invalid(member, "is not UTF-8")
	}
	return string(s), nil
}
