package sink

import "github.com/taskwire/taskwire/internal/trace"

// Trail are the attributes of a log line by which an event is followed through the
// logs of all services. Without a correlation id or a traceparent ("") the line has
// no attribute for it.
func Trail(id, kind, correlation, traceParent string) []any {
	attrs := append(make([]any, 0, 16), "event_id", id, "event_type", kind) // with room for what the line adds
	if correlation != "" {
		attrs = append(attrs, "correlation_id", correlation)
	}
	if id := trace.IDOf(traceParent); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}
