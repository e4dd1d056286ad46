package event

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is the part of a Kafka record that carries an event.
type Record struct {
	Key, Value []byte
	Headers    []Header
	Time       time.Time // the record's timestamp; set by the broker's reader, ignored when writing
}

// Structured is the record of e in structured mode, keyed by its partitionkey.
func Structured(e Event) (Record, error) {
	value, err := Append(make([]byte, 0, 640), e)
	if err != nil {
		return Record{}, err
	}
	return Record{Key: key(e), Value: value, Headers: []Header{{"content-type", []byte(contentStructured)}}}, nil
}

// Binary is the record of e in binary mode: attributes in ce_ headers, the data as value.
func Binary(e Event) (Record, error) {
	headers := make([]Header, 0, 16)
	for _, name := range Attributes(e) {
		text, _ := Attribute(e, name)
		if name == "datacontenttype" {
			headers = append(headers, Header{"content-type", []byte(text)})
			continue
		}
		headers = append(headers, Header{"ce_" + name, []byte(text)})
	}
	return Record{Key: key(e), Value: e.DataEncoded, Headers: headers}, nil
}

func key(e Event) []byte {
	if k, ok := Attribute(e, PartitionKey); ok {
		return []byte(k)
	}
	return nil
}

// IsStructured says whether r says of itself that its value is a whole event.
// Such a value may be passed on as it is once FromRecord has accepted it.
func IsStructured(r Record) bool {
	ct, _, _ := header(r, "content-type")
	return hasPrefixFold(ct, "application/cloudevents")
}

// FromRecord reads the event of a record in either mode, or in the plain
// envelope that publishers without CloudEvents write.
func FromRecord(r Record) (Event, error) {
	contentType, n, err := header(r, "content-type")
	if err != nil {
		return Event{}, err
	}
	if n > 0 && hasPrefixFold(contentType, "application/cloudevents") {
		media, _, _ := strings.Cut(contentType, ";")
		if !strings.EqualFold(strings.TrimSpace(media), "application/cloudevents+json") {
			return Event{}, invalid("event", "is in a format other than JSON")
		}
		return Parse(r.Value)
	}
	for _, h := range r.Headers {
		if hasPrefixFold(h.Key, "ce_") {
			return fromBinaryRecord(r, contentType)
		}
	}
	if len(r.Value) == 0 {
		return Event{}, invalid("event", "the record has no value (a tombstone)")
	}
	return fromEnvelope(r.Value)
}

func fromBinaryRecord(r Record, contentType string) (Event, error) {
	e := blank()
	seen := make(map[string]bool, len(r.Headers))
	for _, h := range r.Headers {
		if !hasPrefixFold(h.Key, "ce_") {
			continue
		}
		name := strings.ToLower(h.Key[len("ce_"):])
		if seen[name] {
			return Event{}, invalid(name, "occurs twice")
		}
		seen[name] = true
		if name == "datacontenttype" {
			return Event{}, invalid(name, "belongs in the header content-type")
		}
		if err := set(&e, name, string(h.Value)); err != nil {
			return Event{}, err
		}
	}
	if contentType != "" {
		if err := set(&e, "datacontenttype", contentType); err != nil {
			return Event{}, err
		}
	}
	if err := complete(e, seen["specversion"]); err != nil {
		return Event{}, err
	}
	return e, setBody(&e, r.Value)
}

// setBody gives e the data of a binary message.
func setBody(e *Event, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	if isJSON(e.DataContentType()) && !jsontext.Value(body).IsValid() {
		return invalid("data", "is not the JSON its content type says")
	}
	e.DataEncoded = body
	e.DataBase64 = !isJSON(e.DataContentType()) && !isText(e.DataContentType())
	return nil
}

func isText(contentType string) bool { return hasPrefixFold(contentType, "text/") }

// envelope is the plain form: no CloudEvent, but the same facts.
type envelope struct {
	EventID    string         `json:"event_id"`
	EventType  string         `json:"event_type"`
	OccurredAt string         `json:"occurred_at"`
	Data       jsontext.Value `json:"data"`
	Metadata   struct {
		CorrelationID string `json:"correlation_id"`
		Source        string `json:"source"`
	} `json:"metadata"`
}

func fromEnvelope(value []byte) (Event, error) {
	var env envelope
	if err := json.Unmarshal(value, &env); err != nil {
		return Event{}, invalid("event", "the record is neither a CloudEvent nor a plain envelope")
	}
	if env.EventID == "" {
		return Event{}, invalid("event_id", "is missing")
	}
	if env.EventType == "" {
		return Event{}, invalid("event_type", "is missing")
	}
	var data struct {
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal(env.Data, &data); err != nil || data.TaskID == "" {
		return Event{}, invalid("data", "has no task_id")
	}
	// Python's isoformat leaves the zone out when the time is naive; it means UTC.
	if _, err := time.Parse("2006-01-02T15:04:05.999999999", env.OccurredAt); err == nil {
		env.OccurredAt += "Z"
	}
	if env.Metadata.Source == "" {
		env.Metadata.Source = Source
	}
	return fromFields(env, data.TaskID)
}

func fromFields(env envelope, taskID string) (Event, error) {
	e := blank()
	fields := [][2]string{
		{"id", env.EventID}, {"source", env.Metadata.Source}, {"type", env.EventType}, {"subject", taskID}, {"time", env.OccurredAt},
		{"datacontenttype", contentJSON}, {PartitionKey, taskID}, {CorrelationID, env.Metadata.CorrelationID},
	}
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		if err := set(&e, f[0], f[1]); err != nil {
			return Event{}, err
		}
	}
	e.DataEncoded = env.Data
	return e, nil
}

// header finds the one header of that name; more than one is refused.
func header(r Record, name string) (value string, n int, err error) {
	for _, h := range r.Headers {
		if strings.EqualFold(h.Key, name) {
			value = string(h.Value)
			n++
		}
	}
	if n > 1 {
		return "", n, invalid(name, "occurs twice")
	}
	return value, n, nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
