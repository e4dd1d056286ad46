package trace

import (
	"context"
	"net/url"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	otel "go.opentelemetry.io/otel/trace"
)

// start begins a span for events: in the trace of a single one, in a trace of its
// own for several. It is linked to each event that is sampled. false: there is nothing to
// trace, since no event is sampled and each has a trace.
func (t *Tracer) start(name string, kind otel.SpanKind, events []Event, attributes []attribute.KeyValue) (context.Context, otel.Span, bool) {
	ctx := context.Background()
	var links []otel.Link
	free := false // an event has no trace yet
	for _, e := range events {
		c := parse(e.Parent, e.State)
		if free = free || !c.IsValid(); !c.IsSampled() {
			continue
		}
		links = append(links, e.link(c))
		if len(events) == 1 {
			ctx = otel.ContextWithRemoteSpanContext(ctx, c)
		}
	}
	if len(links) == 0 && !free {
		return nil, nil, false
	}
	if len(events) == 1 {
		attributes = append(attributes, semconv.MessagingMessageID(text(events[0].ID)))
		attributes = append(attributes, events[0].attributes()...)
	} else {
		attributes = append(attributes, semconv.MessagingBatchMessageCount(len(events)))
	}
	ctx, span := t.tracer.Start(ctx, name, otel.WithSpanKind(kind), otel.WithLinks(links...), otel.WithAttributes(attributes...))
	return ctx, span, true
}

func fail(span otel.Span, kind string, err error) {
	if err != nil {
		span.SetStatus(codes.Error, text(err.Error()))
		span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	}
}

// Producer makes the spans of what is published to a topic; nil makes none.
type Producer struct {
	tracer *Tracer
	name   string
	common []attribute.KeyValue
}

// Producer is for the records of topic.
func (t *Tracer) Producer(topic string) *Producer {
	if t == nil {
		return nil
	}
	return &Producer{t, "send " + topic, []attribute.KeyValue{
		semconv.MessagingSystemKafka, semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("send"), semconv.MessagingDestinationName(topic),
	}}
}

// Begin begins the span of one produce request.
func (p *Producer) Begin(partition int, events []Event) *Publish {
	if p == nil || len(events) == 0 {
		return nil
	}
	// A client and not a producer: the context in the events is not this span's.
	_, span, ok := p.tracer.start(p.name, otel.SpanKindClient, events,
		append(slices.Clone(p.common), semconv.MessagingDestinationPartitionID(strconv.Itoa(partition))))
	if !ok {
		return nil
	}
	return &Publish{span}
}

// Publish is the span of a produce request; nil is none.
type Publish struct{ span otel.Span }

// End ends the span.
func (p *Publish) End(err error) {
	if p == nil {
		return
	}
	fail(p.span, "_OTHER", err)
	p.span.End()
}

// Consumer makes the spans of a subscription; nil makes none.
type Consumer struct {
	tracer        *Tracer
	name          string
	process, post []attribute.KeyValue
}

// Consumer is for the posts of a subscription, that reads topic in group, to its sink.
func (t *Tracer) Consumer(topic, group, subscription, sink string) *Consumer {
	if t == nil {
		return nil
	}
	c := &Consumer{tracer: t, name: "process " + topic, process: []attribute.KeyValue{
		semconv.MessagingSystemKafka, semconv.MessagingOperationTypeProcess, semconv.MessagingOperationName("process"), semconv.MessagingDestinationName(topic),
		semconv.MessagingConsumerGroupName(group), attribute.String("taskwire.subscription", subscription),
	}, post: []attribute.KeyValue{semconv.HTTPRequestMethodPost}}
	if u, err := url.Parse(sink); err == nil {
		u.User, u.RawQuery = nil, "" // they may hold credentials
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			port = map[string]int{"http": 80, "https": 443}[u.Scheme]
		}
		c.post = append(c.post, semconv.URLFull(u.String()), semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port))
	}
	return c
}

// Begin begins the spans of one post: what the bridge does with the events, and the
// request in it.
func (c *Consumer) Begin(partition string, offset int64, attempt int, events []Event) *Delivery {
	attributes := append(slices.Clone(c.process), semconv.MessagingDestinationPartitionID(partition), semconv.MessagingKafkaOffset(int(offset)))
	ctx, process, ok := c.tracer.start(c.name, otel.SpanKindConsumer, events, attributes)
	if !ok {
		return nil
	}
	request := slices.Clone(c.post)
	if attempt > 1 {
		request = append(request, semconv.HTTPRequestResendCount(attempt-1))
	}
	_, post := c.tracer.tracer.Start(ctx, "POST", otel.WithSpanKind(otel.SpanKindClient), otel.WithAttributes(request...))
	return &Delivery{process: process, post: post}
}

// Delivery is the two spans of a post; nil is none.
type Delivery struct{ process, post otel.Span }

// Headers are what the post has to carry, so that the sink continues the trace.
func (d *Delivery) Headers() (parent, state string) { return headers(d.post.SpanContext()) }

// ID is the trace id of spans that are recorded, "" for others and for none.
func (d *Delivery) ID() string {
	if d == nil || !d.post.SpanContext().IsSampled() {
		return ""
	}
	return d.post.SpanContext().TraceID().String()
}

// End ends the spans. status is that of the answer, 0 without one; outcome is a word for
// it, and err says why the events are not accepted.
func (d *Delivery) End(status int, outcome string, err error) {
	if d == nil {
		return
	}
	kind := outcome
	if status != 0 {
		kind = strconv.Itoa(status)
		d.post.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	fail(d.post, kind, err)
	d.post.End()
	d.process.SetAttributes(attribute.String("taskwire.outcome", outcome))
	fail(d.process, outcome, err)
	d.process.End()
}
