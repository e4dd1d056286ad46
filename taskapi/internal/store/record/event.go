// Package record makes what every store writes for a change: ids, the event, and
// the answer that an idempotency key gives again. So that a database can be copied
// into another, none of it depends on the store.
package record

import (
	"fmt"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Signer signs an event in its structured form.
type Signer interface {
	Sign(body []byte) ([]byte, error)
}

// Event makes the event of a change, once: every retry sends these bytes. With a
// signer they are signed, or there is no event and so no change. dataSchema is the
// address of the JSON Schema of its data, "" for none.
func Event(a task.Answer, origin task.Origin, now time.Time, signer Signer, dataSchema string) ([]byte, error) {
	tk := a.Task
	c := event.Change{
		ID: NewID(now), Type: string(a.Kind), Time: now, TaskVersion: tk.Version,
		CorrelationID: origin.CorrelationID, Actor: origin.Actor,
		TraceParent: origin.TraceParent, TraceState: origin.TraceState, DataSchema: dataSchema,
		Data: event.Data{TaskID: tk.ID, Title: tk.Title, Status: string(tk.Status)},
	}
	if tk.OwnerID != "" {
		c.Data.OwnerID = &tk.OwnerID
	}
	body, err := event.AppendChange(nil, c)
	if err != nil {
		return nil, fmt.Errorf("make the event of task %s: %w", tk.ID, err)
	}
	if signer == nil {
		return body, nil
	}
	if body, err = signer.Sign(body); err != nil {
		return nil, &task.BusyError{Reason: "the key that signs events cannot be used", RetryAfter: 10 * time.Second}
	}
	return body, nil
}
