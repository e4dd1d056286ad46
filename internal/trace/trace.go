// Package trace makes OpenTelemetry spans and sends them to a collector over
// OTLP (http/protobuf). Nothing outside of it knows OpenTelemetry.
//
// Without OTEL_* settings there is no Tracer: a nil *Tracer, and what is made
// from it, makes no spans and costs no allocation.
//
// The context of a span travels as W3C traceparent and tracestate:
//
//	caller ── header ──▶ taskapi: server span
//	                        │ traceparent of the event, in the outbox and on the topic
//	                        ├──▶ taskapi: send           linked to each event it publishes
//	                        └──▶ bridge: process, POST   linked to each event it delivers
//	                                       └── header ──▶ sink: server span
//
// A span for one event continues the event's trace and is linked to it, too. A
// span for several begins a trace of its own, linked to each of them, and is
// sampled when one of them is.
package trace

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/taskwire/taskwire/internal/build"
)

const (
	// flushTime is how long a stop waits for the collector.
	flushTime = 2 * time.Second
	// mostLinks of a span: a batch of the bridge has at most 500 events, one of the
	// relay may have more.
	mostLinks = 1000
	// longest value of an attribute, in bytes; paths and ids come from callers.
	longest = 1024
)

// Tracer makes the spans of one service; nil makes none. It is safe for concurrent use.
type Tracer struct {
	tracer   otel.Tracer
	provider *sdk.TracerProvider
	exporter *otlptrace.Exporter
}

// New returns a tracer that exports until Close, or nil when cfg is nil. The
// collector need not be there.
func New(cfg *Config, log *slog.Logger) *Tracer {
	if cfg == nil {
		return nil
	}
	exporter := otlptrace.NewUnstarted(newClient(cfg, log))
	_ = exporter.Start(context.Background()) // opens nothing
	limits := sdk.NewSpanLimits()
	limits.LinkCountLimit, limits.AttributeValueLengthLimit = mostLinks, longest
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(cfg.QueueSize), sdk.WithMaxExportBatchSize(cfg.BatchSize),
			sdk.WithBatchTimeout(cfg.Delay), sdk.WithExportTimeout(cfg.Timeout)),
		sdk.WithSampler(cfg.sampler), sdk.WithRawSpanLimits(limits), sdk.WithResource(cfg.resource()))
	log.Info("traces are exported", "endpoint", cfg.endpoint.Redacted())
	return &Tracer{tracer: provider.Tracer("github.com/taskwire/taskwire"), provider: provider, exporter: exporter}
}

func (c *Config) resource() *resource.Resource {
	b := build.Read()
	attributes := append([]attribute.KeyValue{
		semconv.ServiceNamespace("taskwire"), semconv.ServiceVersion(b.Version), semconv.ServiceInstanceID(uuid.NewString()),
	}, c.attributes...)
	r, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(attributes...))
	if err != nil {
		panic(err) // these detectors do not fail
	}
	return r
}

// Close sends what waits, until the deadline and for flushTime at most. What the collector has
// not taken by then is lost. Spans that end later are dropped.
func (t *Tracer) Close(deadline time.Time) {
	if t == nil {
		return
	}
	limit := time.NewTimer(min(flushTime, time.Until(deadline)))
	defer limit.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = t.provider.Shutdown(context.Background()) // the client logs what fails
	}()
	select {
	case <-done:
	case <-limit.C:
		_ = t.exporter.Shutdown(context.Background()) // cuts off the request in flight and refuses all others
		<-done
	}
}

// ID is the trace id of the sampled span of ctx in hex, "" when there is none.
func ID(ctx context.Context) string {
	if c := otel.SpanContextFromContext(ctx); c.IsSampled() {
		return c.TraceID().String()
	}
	return ""
}

// IDOf is the trace id of a traceparent in hex, sampled or not; "" when it is none.
func IDOf(traceparent string) string {
	if traceparent = valid(traceparent); traceparent == "" {
		return ""
	}
	return traceparent[3:35]
}
