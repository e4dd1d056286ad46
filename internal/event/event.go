// Package event is the vocabulary that the services share: which events exist,
// what they carry, and how they look in Kafka records and HTTP messages.
//
// The event type is that of the CloudEvents SDK. Reading and writing are our
// own code, and stricter than the SDK's: if two readers disagreed about one
// message, the bridge could filter one event and the auditor keep another.
// Whatever is ambiguous is refused: duplicate names, invalid UTF-8, control
// characters, data given twice, attributes given twice.
//
// An event does not depend on the form it travelled in. The structured, binary
// and batch forms of one event, in Kafka or over HTTP, read back as the same
// attributes and the same data bytes. A binary form keeps only the text of an
// extension attribute, not its type; Attribute returns the same text for all forms.
package event

import (
	ce "github.com/cloudevents/sdk-go/v2/event"
)

// Event is a CloudEvent 1.0. DataEncoded holds the data as received, without
// the white space around a JSON text. DataBase64 is set when JSON cannot carry
// these bytes unchanged.
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

// MaxBytes limits one event in any form, and one batch.
const MaxBytes = 1 << 20

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
