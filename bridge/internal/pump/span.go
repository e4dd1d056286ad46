package pump

import (
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/trace"
)

// span begins the spans of a post and has msg carry their context, so that the sink
// continues from here; the events keep theirs. nil, and msg as it was, when there are none.
func (p *partition) span(r *post, msg *deliver.Post) *trace.Delivery {
	if p.sub.spans == nil {
		return nil
	}
	events := make([]trace.Event, len(r.items))
	for i, it := range r.items {
		events[i] = trace.Event{Parent: it.trace, State: it.traceState, ID: it.event, Type: it.kind, Subject: string(it.record.Key)}
	}
	d := p.sub.spans.Begin(p.name, r.items[0].offset, msg.Attempt, events)
	if d != nil {
		msg.TraceParent, msg.TraceState = d.Headers()
	}
	return d
}
