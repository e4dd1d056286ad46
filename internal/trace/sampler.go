package trace

import (
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"
)

// linked decides about spans without a parent. One that stands for a sampled event
// is sampled: the choice was made where that event's trace began.
type linked struct{ sdk.Sampler }

func (l linked) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	for _, link := range p.Links {
		if link.SpanContext.IsSampled() {
			return sdk.SamplingResult{Decision: sdk.RecordAndSample, Tracestate: otel.SpanContextFromContext(p.ParentContext).TraceState()}
		}
	}
	return l.Sampler.ShouldSample(p)
}
