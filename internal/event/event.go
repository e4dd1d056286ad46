// Package event is the vocabulary that the services share: the CloudEvents of a
// task's life, and their forms as a Kafka record and as an HTTP message.
//
// Reading is strict. What two readers could understand differently is refused:
// a member or header that occurs twice, invalid UTF-8, text after the event,
// data beside data_base64, control characters in an attribute. Every refusal
// is an *InvalidError that names the attribute.
package event

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// Event is a CloudEvent 1.0. DataEncoded holds the data's bytes as received.
type Event = ce.Event

// Types and source of the events that the Task API makes.
const (
	TypeCreated   = "task.created"
	TypeUpdated   = "task.updated"
	TypeCompleted = "task.completed"

	Source = "task-api"
)

// Names of the extension attributes in use.
const (
	CorrelationID = "correlationid"
	PartitionKey  = "partitionkey"
	VersionOfTask = "taskversion"
	Actor         = "actor"
	TraceParent   = "traceparent"
	TraceState    = "tracestate"
)

const (
	contentJSON       = "application/json"
	contentStructured = "application/cloudevents+json; charset=UTF-8"
)

// InvalidError says why something is not a CloudEvent. It never repeats the value.
type InvalidError struct {
	Attribute string // attribute or member at fault; "event" when it is the whole
	Reason    string
}

func (e *InvalidError) Error() string { return e.Attribute + ": " + e.Reason }

func invalid(attribute, format string, args ...any) error {
	return &InvalidError{Attribute: attribute, Reason: fmt.Sprintf(format, args...)}
}

// Data is the payload of a task event.
type Data struct {
	TaskID  string  `json:"task_id"`
	Title   string  `json:"title"`
	Status  string  `json:"status"`
	OwnerID *string `json:"owner_id"`
}

// Change is what the Task API knows when it makes an event: once, in the
// transaction of the change.
type Change struct {
	ID            string // UUIDv7
	Type          string
	Time          time.Time
	TaskVersion   int64 // 1, 2, 3 ... per task
	CorrelationID string
	Actor         string // "" when the API asks for no tokens
	TraceParent   string // "" when the caller sent none
	TraceState    string
	Data          Data
}

// New makes the event of a change.
func New(c Change) (Event, error) {
	if c.TaskVersion < 1 || c.TaskVersion > 1<<31-1 {
		return Event{}, invalid(VersionOfTask, "is not between 1 and 2147483647")
	}
	e := blank()
	e.SetID(c.ID)
	e.SetSource(Source)
	e.SetType(c.Type)
	e.SetSubject(c.Data.TaskID)
	e.SetTime(c.Time.UTC())
	if err := e.SetData(contentJSON, c.Data); err != nil {
		return Event{}, fmt.Errorf("encode data of event %s: %w", c.ID, err)
	}
	extensions := map[string]any{PartitionKey: c.Data.TaskID, VersionOfTask: int32(c.TaskVersion)}
	for name, value := range map[string]string{CorrelationID: c.CorrelationID, Actor: c.Actor, TraceParent: c.TraceParent, TraceState: c.TraceState} {
		if value != "" {
			extensions[name] = value
		}
	}
	e.Context.(*ce.EventContextV1).Extensions = extensions
	if err := e.Validate(); err != nil {
		return Event{}, fmt.Errorf("event %s: %w", c.ID, err)
	}
	return e, nil
}

func blank() Event { return Event{Context: &ce.EventContextV1{}} }

// TaskVersion is the taskversion attribute, if it is there and a positive integer.
func TaskVersion(e Event) (int64, bool) {
	s, ok := Attribute(e, VersionOfTask)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0
}

// Attribute is the canonical string form of a context attribute, if it is set.
func Attribute(e Event, name string) (string, bool) {
	c, ok := e.Context.(*ce.EventContextV1)
	if !ok {
		return "", false
	}
	switch name {
	case "specversion":
		return ce.CloudEventsVersionV1, true
	case "id":
		return c.ID, true
	case "source":
		return c.Source.String(), true
	case "type":
		return c.Type, true
	case "subject":
		return deref(c.Subject)
	case "datacontenttype":
		return deref(c.DataContentType)
	case "dataschema":
		if c.DataSchema == nil {
			return "", false
		}
		return c.DataSchema.String(), true
	case "time":
		if c.Time == nil {
			return "", false
		}
		return formatTime(c.Time.Time), true
	}
	v, ok := c.Extensions[name]
	if !ok {
		return "", false
	}
	return format(v), true
}

func deref(s *string) (string, bool) {
	if s == nil {
		return "", false
	}
	return *s, true
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// format is the canonical string of an attribute value, as CloudEvents 1.0 §3.1.
func format(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int32:
		return strconv.Itoa(int(v))
	}
	s, err := types.Format(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return s
}

// Attributes are the names that are set, in the order in which they are
// written: those of the specification first, then extensions by name.
func Attributes(e Event) []string {
	names := make([]string, 0, 16)
	for _, name := range []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"} {
		if _, ok := Attribute(e, name); ok {
			names = append(names, name)
		}
	}
	first := len(names)
	for name := range e.Extensions() {
		names = append(names, name)
	}
	slices.Sort(names[first:])
	return names
}

// set gives one attribute its value from its string form, or from a JSON
// boolean or integer.
func set(e *Event, name string, value any) error {
	c := e.Context.(*ce.EventContextV1)
	text, isText := value.(string)
	if err := checkText(name, text); err != nil {
		return err
	}
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema":
		if !isText {
			return invalid(name, "is not a string")
		}
		if text == "" {
			return invalid(name, "is empty")
		}
	}
	switch name {
	case "specversion":
		if text != ce.CloudEventsVersionV1 {
			return invalid(name, "is not 1.0, the only version understood")
		}
	case "id":
		c.ID = text
	case "source":
		u, err := url.Parse(text)
		if err != nil {
			return invalid(name, "is not a URI reference")
		}
		c.Source = types.URIRef{URL: *u}
	case "type":
		c.Type = text
	case "subject":
		c.Subject = &text
	case "time":
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return invalid(name, "is not an RFC 3339 time")
		}
		c.Time = &types.Timestamp{Time: t}
	case "datacontenttype":
		c.DataContentType = &text
	case "dataschema":
		u, err := url.Parse(text)
		if err != nil || !u.IsAbs() {
			return invalid(name, "is not an absolute URI")
		}
		c.DataSchema = &types.URI{URL: *u}
	default:
		return setExtension(c, name, value)
	}
	return nil
}

func setExtension(c *ce.EventContextV1, name string, value any) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return invalid("event", "has an attribute whose name is not made of lower-case letters and digits")
	}
	if name == "data" || name == "data_base64" {
		return invalid(name, "is no attribute")
	}
	// Headers know only strings; the one integer of ours reads the same in every form.
	if text, ok := value.(string); ok && name == VersionOfTask {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil && strconv.FormatInt(n, 10) == text {
			value = int32(n)
		}
	}
	if c.Extensions == nil {
		c.Extensions = make(map[string]any, 8)
	}
	c.Extensions[name] = value
	return nil
}

func checkText(name, text string) error {
	if !utf8.ValidString(text) {
		return invalid(name, "is not valid UTF-8")
	}
	for _, r := range text {
		if r < 0x20 || (r >= 0x7f && r <= 0x9f) {
			return invalid(name, "holds a control character")
		}
	}
	return nil
}

// complete checks what only the whole event shows.
func complete(e Event, sawVersion bool) error {
	c := e.Context.(*ce.EventContextV1)
	switch {
	case !sawVersion:
		return invalid("specversion", "is missing")
	case c.ID == "":
		return invalid("id", "is missing")
	case c.Source.String() == "":
		return invalid("source", "is missing")
	case c.Type == "":
		return invalid("type", "is missing")
	}
	return nil
}

// isJSON says whether data of this content type is a JSON value; none means it is.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "" || media == contentJSON || media == "text/json" || strings.HasSuffix(media, "+json")
}
