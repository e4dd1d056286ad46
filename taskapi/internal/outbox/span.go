package outbox

import (
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/trace"
)

// span begins the span of a produce; nil when there are none.
func (r *Relay) span(lane int, rows []Row) *trace.Publish {
	if r.spans == nil {
		return nil
	}
	events := make([]trace.Event, len(rows))
	var o event.Outline
	for i, row := range rows {
		if !o.Read(event.Structured(row.TaskID, row.Event)) {
			continue // without a trace: what is published does not depend on it
		}
		text := func(name string) string {
			value, _ := o.Attribute(name)
			return string(value)
		}
		events[i] = trace.Event{
			Parent: text(event.TraceParent), State: text(event.TraceState),
			ID: text("id"), Source: text("source"), Type: text("type"), Subject: text("subject"),
		}
	}
	return r.spans.Begin(lane, events)
}
