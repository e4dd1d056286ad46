// Package event is the vocabulary that the services share: which events there
// are, what they carry, and how they look in Kafka records and HTTP messages.
//
// The event type is that of the CloudEvents SDK; reading and writing are own
// code, stricter than the SDK's, because two readers that disagree about one
// message would let the bridge filter one event and the auditor keep another.
// What is ambiguous is refused: duplicate names, bad UTF-8, control characters,
// data given twice, attributes given twice.
//
// An event does not depend on the form it travelled in: the structured, binary
// and batch forms of one event, in Kafka or over HTTP, read back as the same
// attributes and the same data bytes. Of the types of extension attributes only
// text survives a binary form; Attribute is equal in all of them.
package event

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is a CloudEvent 1.0. DataEncoded holds the data's bytes as received,
// without the white space around a JSON text; DataBase64 says that JSON cannot carry
// them as they are.
type Event = ce.Event

// Types of the events that the Task API emits.
const (
	TypeCreated   = "task.created"
	TypeUpdated   = "task.updated"
	TypeCompleted = "task.completed"
)

// Source is the source of every event of the Task API.
const Source = "task-api"

// Names of the extension attributes in use.
const (
	PartitionKey  = "partitionkey"
	VersionOfTask = "taskversion"
	CorrelationID = "correlationid"
	Actor         = "actor"
	TraceParent   = "traceparent"
	TraceState    = "tracestate"
)

// MaxBytes limits one event, whatever form it comes in, and one batch.
const MaxBytes = 1 << 20

// Data is what each task event carries: the task after the change.
type Data struct {
	TaskID  string  `json:"task_id"`
	Title   string  `json:"title"`
	Status  string  `json:"status"`
	OwnerID *string `json:"owner_id"` // null when nobody owns the task
}

// Change is one change of a task, as the Task API's transaction made it.
type Change struct {
	ID            string // UUIDv7
	Type          string
	Time          time.Time
	TaskVersion   int64 // 1, 2, 3 ... per task
	CorrelationID string
	Actor         string // "" when the API is open
	TraceParent   string // "" when there is none
	TraceState    string
	Data          Data
}

// New makes the event of c. Subject and partition key are the task's id, so
// that all events of a task keep their order.
func New(c Change) (Event, error) {
	if err := c.check(); err != nil {
		return Event{}, fmt.Errorf("make event %s: %w", c.ID, err)
	}
	data, err := appendData(nil, c.Data)
	if err != nil {
		return Event{}, fmt.Errorf("make event %s: data: %w", c.ID, err)
	}
	var b builder
	for _, a := range []struct {
		name  string
		value any
	}{
		{"specversion", specVersion},
		{"id", c.ID},
		{"source", Source},
		{"type", c.Type},
		{"subject", c.Data.TaskID},
		{"time", types.FormatTime(c.Time)},
		{"datacontenttype", mediaJSON},
		{PartitionKey, c.Data.TaskID},
		{VersionOfTask, int32(c.TaskVersion)},
		{CorrelationID, c.CorrelationID},
		{Actor, c.Actor},
		{TraceParent, c.TraceParent},
		{TraceState, c.TraceState},
	} {
		if a.value == "" {
			continue
		}
		if err := b.set(a.name, a.value); err != nil {
			return Event{}, fmt.Errorf("make event %s: %w", c.ID, err)
		}
	}
	return b.event(data)
}

func (c Change) check() error {
	switch {
	case c.Type != TypeCreated && c.Type != TypeUpdated && c.Type != TypeCompleted:
		return fmt.Errorf("%q is no type of a task event", c.Type)
	case c.Time.IsZero():
		return errors.New("the change has no time")
	case c.Data.TaskID == "":
		return errors.New("the change has no task id")
	case c.TaskVersion < 1 || c.TaskVersion > math.MaxInt32:
		return fmt.Errorf("task version %d does not fit a CloudEvents integer", c.TaskVersion)
	}
	return nil
}

// appendData keeps the order of the members and escapes no more than JSON
// asks for, so that one change has one encoding.
func appendData(dst []byte, d Data) ([]byte, error) {
	var err error
	for _, m := range []struct{ prefix, value string }{
		{`{"task_id":`, d.TaskID}, {`,"title":`, d.Title}, {`,"status":`, d.Status},
	} {
		dst = append(dst, m.prefix...)
		if dst, err = jsontext.AppendQuote(dst, m.value); err != nil {
			return nil, err
		}
	}
	dst = append(dst, `,"owner_id":`...)
	if d.OwnerID == nil {
		return append(dst, `null}`...), nil
	}
	dst, err = jsontext.AppendQuote(dst, *d.OwnerID)
	return append(dst, '}'), err
}

// Task is the task that e is about; it has an id and a title. Members beyond
// the four are left alone.
func Task(e Event) (Data, error) {
	if len(e.DataEncoded) == 0 {
		return Data{}, invalid("data", "is missing")
	}
	var d Data
	if err := json.Unmarshal(e.DataEncoded, &d); err != nil {
		return Data{}, invalid("data", "is not a JSON object with the texts task_id, title, status and owner_id")
	}
	switch {
	case d.TaskID == "":
		return Data{}, invalid("data", "has no task_id")
	case d.Title == "":
		return Data{}, invalid("data", "has no title")
	}
	return d, nil
}

// TaskVersion is the position of e among the changes of its task. False when
// the event carries none that counts: foreign events need not.
func TaskVersion(e Event) (int64, bool) {
	s, ok := Attribute(e, VersionOfTask)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return n, err == nil && n >= 1
}

// Attribute is the canonical text of one context attribute, the same whatever
// form the event came in. False when the event does not have it.
func Attribute(e Event, name string) (string, bool) {
	c, err := context(e)
	if err != nil {
		return "", false
	}
	switch name {
	case "specversion":
		return specVersion, true
	case "id":
		return c.ID, c.ID != ""
	case "source":
		s := c.Source.String()
		return s, s != ""
	case "type":
		return c.Type, c.Type != ""
	case "subject":
		return deref(c.Subject)
	case "datacontenttype":
		return deref(c.DataContentType)
	case "dataschema":
		return c.DataSchema.String(), c.DataSchema != nil
	case "time":
		if c.Time == nil {
			return "", false
		}
		return types.FormatTime(c.Time.Time), true
	}
	v, ok := c.Extensions[name]
	if !ok {
		return "", false
	}
	s, err := types.Format(v)
	return s, err == nil
}

// Attributes are the names of those that e has, in the order in which they are
// written: the specification's first, then the extensions by name.
func Attributes(e Event) []string {
	c, err := context(e)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(coreNames)+len(c.Extensions))
	for _, name := range coreNames {
		if _, ok := Attribute(e, name); ok {
			names = append(names, name)
		}
	}
	return append(names, slices.Sorted(maps.Keys(c.Extensions))...)
}

func deref(s *string) (string, bool) {
	if s == nil {
		return "", false
	}
	return *s, true
}

// context is the version 1.0 context of an event, however it was assembled.
func context(e Event) (*ce.EventContextV1, error) {
	if e.Context == nil {
		return nil, invalid("specversion", "is missing")
	}
	c, ok := e.Context.(*ce.EventContextV1)
	if !ok {
		return nil, invalid("specversion", "is not 1.0")
	}
	return c, nil
}

// uri keeps s byte for byte. The SDK stores URIs parsed and writes them anew, which
// would change those not in normal form, and with source the event's identity.
func uri(s string) (url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return url.URL{}, err
	}
	if u.String() != s {
		return url.URL{Opaque: s}, nil
	}
	return *u, nil
}
