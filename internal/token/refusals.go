package token

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Reason is why a request was refused. Its values are labels of the metric.
type Reason string

// Reasons.
const (
	Missing   Reason = "missing"   // no credentials at all
	Unknown   Reason = "token"     // a token that is on no list
	Signature Reason = "signature" // a signature that is wrong, too old or does not cover the request
)

// Failed is why a request with the headers h carries no good token.
func Failed(h http.Header) Reason {
	if len(h["Authorization"]) == 0 {
		return Missing
	}
	return Unknown
}

const (
	delay = 250 * time.Millisecond
	held  = 64 // requests that are delayed at a time
)

// Refusals counts the requests without good credentials, logs them at most once a
// second, and delays their answers. A good request never waits for a bad one:
// nothing but the bad ones is delayed, and only so many of them at a time.
type Refusals struct {
	count *prometheus.CounterVec // taskwire_auth_failures_total{reason}
	log   *slog.Logger
	often rate.Sometimes
	slots chan struct{}
}

// NewRefusals registers the counter, unless reg is nil.
func NewRefusals(reg prometheus.Registerer, log *slog.Logger) *Refusals {
	f := &Refusals{log: log, often: rate.Sometimes{Interval: time.Second}, slots: make(chan struct{}, held),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "taskwire_auth_failures_total", Help: "Requests refused because their token or signature is missing or wrong.",
		}, []string{"reason"})}
	for _, reason := range []Reason{Missing, Unknown, Signature} {
		f.count.WithLabelValues(string(reason)) // exists from the start, so that a rate over it has a first value
	}
	if reg != nil {
		reg.MustRegister(f.count)
	}
	return f
}

// Add is called before the answer to r is written. It takes delay or, when too
// many requests are delayed already, nothing: the connection is closed instead,
// so that the next guess costs the caller a new one.
func (f *Refusals) Add(w http.ResponseWriter, r *http.Request, reason Reason) {
	f.count.WithLabelValues(string(reason)).Inc()
	f.often.Do(func() {
		f.log.Warn("request refused, at most one such line a second", "reason", string(reason), "remote", r.RemoteAddr, "method", r.Method)
	})
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		w.Header().Set("Connection", "close")
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}
