package trace

import (
	"context"
	"net/http"
	"strings"

	otel "go.opentelemetry.io/otel/trace"
)

// mostState is how long a tracestate is at most; W3C asks for 512 characters.
const mostState = 512

// FromHeader reads the W3C trace context of a request. What is invalid is left
// out, as the recommendation says: without a good traceparent both are "", and
// a tracestate that is too long or no text is dropped alone.
func FromHeader(h http.Header) (parent, state string) {
	given := h["Traceparent"]
	if len(given) != 1 {
		return "", ""
	}
	if parent = valid(given[0]); parent == "" {
		return "", ""
	}
	if state = strings.Join(h["Tracestate"], ","); !printable(state) {
		state = ""
	}
	return parent, state
}

func printable(s string) bool {
	return len(s) <= mostState && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// valid returns a traceparent as version 00 has it: version, trace id, parent id,
// flags. One of a later version is read by its first four fields. "" for any other text.
func valid(s string) string {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || !isHex(s[:2]) || s[:2] == "ff" {
		return ""
	}
	if len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return ""
	}
	id, parent, flags := s[3:35], s[36:52], s[53:55]
	if !isHex(id) || !isHex(parent) || !isHex(flags) || strings.Trim(id, "0") == "" || strings.Trim(parent, "0") == "" {
		return ""
	}
	if s[:2] == "00" {
		return s
	}
	return "00" + s[2:55]
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parse is the span context of a traceparent and a tracestate; one without a trace
// id for what is none.
func parse(parent, state string) otel.SpanContext {
	if parent = valid(parent); parent == "" {
		return otel.SpanContext{}
	}
	c := otel.SpanContextConfig{Remote: true, TraceFlags: flags(parent[53], parent[54])}
	c.TraceID, _ = otel.TraceIDFromHex(parent[3:35]) // valid has seen both
	c.SpanID, _ = otel.SpanIDFromHex(parent[36:52])
	if len(state) <= mostState {
		c.TraceState, _ = otel.ParseTraceState(state) // an invalid one is empty
	}
	return otel.NewSpanContext(c)
}

func flags(high, low byte) otel.TraceFlags {
	digit := func(c byte) otel.TraceFlags {
		if c <= '9' {
			return otel.TraceFlags(c - '0')
		}
		return otel.TraceFlags(c - 'a' + 10)
	}
	return digit(high)<<4 | digit(low)
}

// headers are c as traceparent and tracestate; "" for one without a trace id.
func headers(c otel.SpanContext) (parent, state string) {
	if !c.IsValid() {
		return "", ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String(), c.TraceState().String()
}

// Current is the context of the span of ctx as traceparent and tracestate. Both
// are "" when there is no span.
func Current(ctx context.Context) (parent, state string) {
	return headers(otel.SpanContextFromContext(ctx))
}
