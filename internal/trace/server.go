package trace

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	otel "go.opentelemetry.io/otel/trace"
)

// Serve begins the server span of a request, in the trace of its caller or a new one. The
// request that it returns has the span in its context. Without a Tracer it
// returns r and nil.
func (t *Tracer) Serve(r *http.Request) (*http.Request, *Request) {
	if t == nil {
		return r, nil
	}
	ctx := r.Context()
	if c := parse(FromHeader(r.Header)); c.IsValid() {
		ctx = otel.ContextWithRemoteSpanContext(ctx, c)
	}
	// Not the query: it may hold a token.
	ctx, span := t.tracer.Start(ctx, method(r.Method), otel.WithSpanKind(otel.SpanKindServer), otel.WithAttributes(
		semconv.HTTPRequestMethodKey.String(method(r.Method)), semconv.URLPath(text(r.URL.Path)), semconv.URLScheme("http"),
		semconv.NetworkProtocolVersion(strconv.Itoa(r.ProtoMajor)+"."+strconv.Itoa(r.ProtoMinor))))
	return r.WithContext(ctx), &Request{span}
}

// method bounds the names of spans.
func method(given string) string {
	switch given {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete, http.MethodOptions:
		return given
	}
	return "_OTHER"
}

// Request is the server span of a request; nil is none.
type Request struct{ span otel.Span }

// End ends the span. route is the pattern that matched, as in metrics: a path,
// with the method before it or without.
func (q *Request) End(route, verb string, status int) {
	if q == nil {
		return
	}
	if _, path, ok := strings.Cut(route, " "); ok {
		route = path
	}
	if q.span.IsRecording() {
		q.span.SetName(method(verb) + " " + route)
		q.span.SetAttributes(semconv.HTTPRoute(route), semconv.HTTPResponseStatusCode(status))
		if status >= 500 {
			q.span.SetStatus(codes.Error, "")
			q.span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		}
	}
	q.span.End()
}

// Event is an event as spans show it.
type Event struct {
	Parent, State             string // its traceparent and tracestate; "" for none
	ID, Source, Type, Subject string // what is known of it
}

func (e Event) attributes() []attribute.KeyValue {
	a := make([]attribute.KeyValue, 0, 4)
	for _, one := range []attribute.KeyValue{semconv.CloudEventsEventID(text(e.ID)), semconv.CloudEventsEventSource(text(e.Source)),
		semconv.CloudEventsEventType(text(e.Type)), semconv.CloudEventsEventSubject(text(e.Subject))} {
		if one.Value.AsString() != "" {
			a = append(a, one)
		}
	}
	return a
}

// Recording reports whether the span of ctx will be exported.
func Recording(ctx context.Context) bool { return otel.SpanFromContext(ctx).IsRecording() }

// Received notes on the span of ctx which events came with its request, with a link to each
// whose trace is another.
func Received(ctx context.Context, events []Event) {
	span := otel.SpanFromContext(ctx)
	if !span.IsRecording() || len(events) == 0 {
		return
	}
	if len(events) == 1 {
		span.SetAttributes(events[0].attributes()...)
	} else {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(events)))
	}
	for _, e := range events {
		if c := parse(e.Parent, e.State); c.IsSampled() && c.TraceID() != span.SpanContext().TraceID() {
			span.AddLink(e.link(c))
		}
	}
}

func (e Event) link(c otel.SpanContext) otel.Link {
	return otel.Link{SpanContext: c, Attributes: []attribute.KeyValue{semconv.CloudEventsEventID(text(e.ID))}}
}

// text is s as an attribute may have it. One that is no UTF-8 would make the
// collector refuse the whole export.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
