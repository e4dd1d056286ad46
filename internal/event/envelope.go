package event

import (
	"bytes"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// fromEnvelope turns the plain envelope
//
//	{"event_id", "event_type", "occurred_at", "data", "metadata": {"correlation_id", "source"}}
//
// into the CloudEvent that says the same. A member without a place in it is
// refused: it would be lost unnoticed.
func fromEnvelope(body []byte) (Event, error) {
	var b builder
	var data jsontext.Value
	source := Source // what the writers of envelopes mean when they leave it out
	err := members(body, func(name string, v jsontext.Value) error {
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
			return b.setMetadata(v, &source)
		}
		return invalid("", "the envelope's member %+q has no place in a CloudEvent", shorten(name))
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
	return b.event(data)
}

func (b *builder) setMetadata(v jsontext.Value, source *string) error {
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
		return invalid("", "the envelope's member metadata.%+q has no place in a CloudEvent", shorten(name))
	})
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

// shorten limits how much of a sender's member name an error repeats.
func shorten(name string) string {
	if len(name) > maxName {
		return name[:maxName]
	}
	return name
}
