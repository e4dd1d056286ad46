// Package latency measures how long things take, in histograms that Prometheus can
// read in both of its forms: with the fixed bounds that a dashboard of any age
// understands, and as a native histogram, whose buckets are at most 10 % wide. An
// observation may carry the trace that it belongs to, as an exemplar.
package latency

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// factor is how much larger a native bucket is than the one before, at most.
	factor = 1.1
	// mostBuckets bounds a native histogram: beyond it the resolution is halved.
	// 160 buckets of 10 % reach from 1 ms to an hour.
	mostBuckets = 160
	// resetAfter lets a histogram start again with full resolution, not more often.
	resetAfter = time.Hour
	// exemplarEvery: an exemplar takes a lock and memory, and a scrape keeps a few.
	exemplarEvery = 100 * time.Millisecond
)

// TraceLabel is the label of an exemplar, as Grafana and OpenTelemetry name it.
const TraceLabel = "trace_id"

// Vec are the histograms of one metric, one for each combination of its labels.
type Vec struct {
	histograms *prometheus.HistogramVec
	next       atomic.Int64 // when the next exemplar may be taken, in nanoseconds of the clock
}

// New registers a metric, whose fixed bounds begin at shortest and double n - 1
// times; reg may be nil.
func New(reg prometheus.Registerer, name, help string, shortest time.Duration, n int, labels ...string) *Vec {
	v := &Vec{histograms: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(shortest.Seconds(), 2, n),
		NativeHistogramBucketFactor: factor, NativeHistogramMaxBucketNumber: mostBuckets, NativeHistogramMinResetDuration: resetAfter,
	}, labels)}
	if reg != nil {
		reg.MustRegister(v.histograms)
	}
	return v
}

// Of returns the histogram of these labels. Looking it up costs more than to
// observe: whoever observes often keeps it.
func (v *Vec) Of(labels ...string) *Histogram {
	o := v.histograms.WithLabelValues(labels...)
	return &Histogram{vec: v, observer: o, exemplar: o.(prometheus.ExemplarObserver)}
}

// Delete removes the histograms with a label.
func (v *Vec) Delete(label, value string) {
	v.histograms.DeletePartialMatch(prometheus.Labels{label: value})
}

// Histogram has the durations of one combination of labels.
type Histogram struct {
	vec      *Vec
	observer prometheus.Observer
	exemplar prometheus.ExemplarObserver
}

// Observe counts a duration; trace is the id of its trace, "" for none. It waits
// for nothing and allocates nothing, but for ten exemplars a second of the metric.
func (h *Histogram) Observe(took time.Duration, trace string) {
	if trace != "" && h.vec.due(time.Now().UnixNano()) {
		h.exemplar.ObserveWithExemplar(took.Seconds(), prometheus.Labels{TraceLabel: trace})
		return
	}
	h.observer.Observe(took.Seconds())
}

// due reports, to one caller at a time, that an exemplar may be taken.
func (v *Vec) due(now int64) bool {
	next := v.next.Load()
	return now >= next && v.next.CompareAndSwap(next, now+int64(exemplarEvery))
}
