package store

import (
	"fmt"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// encode makes the event of a change, once: every retry sends these bytes.
func encode(a task.Answer, origin task.Origin, now time.Time) ([]byte, error) {
	tk := a.Task
	c := event.Change{
		ID: newID(now), Type: string(a.Kind), Time: now, TaskVersion: tk.Version,
		CorrelationID: origin.CorrelationID, Actor: origin.Actor,
		TraceParent: origin.TraceParent, TraceState: origin.TraceState,
		Data: event.Data{TaskID: tk.ID, Title: tk.Title, Status: string(tk.Status)},
	}
	if tk.OwnerID != "" {
		c.Data.OwnerID = &tk.OwnerID
	}
	body, err := event.AppendChange(nil, c)
	if err != nil {
		return nil, fmt.Errorf("make the event of task %s: %w", tk.ID, err)
	}
	return body, nil
}
