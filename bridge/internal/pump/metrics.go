package pump

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// Metrics are the bridge's, for all subscriptions.
type Metrics struct {
	attempts    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	deadLetters *prometheus.CounterVec
	rebalances  *prometheus.CounterVec
	lag         *prometheus.GaugeVec
	oldest      *prometheus.GaugeVec
	inFlight    *prometheus.GaugeVec
	blocked     *prometheus.GaugeVec
}

// NewMetrics registers with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "taskwire_bridge_" + name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "taskwire_bridge_" + name, Help: help}, labels)
		reg.MustRegister(g)
		return g
	}
	m := &Metrics{
		attempts:    counter("attempts_total", "Posts to the sink, by outcome.", "subscription", "outcome"),
		deadLetters: counter("dead_letters_total", "Records put aside, by reason.", "subscription", "reason"),
		rebalances:  counter("rebalances_total", "Generations of the group after the first.", "subscription"),
		lag:         gauge("lag", "End of the partition less the committed offset.", "subscription", "partition"),
		oldest:      gauge("oldest_unacked_seconds", "Age of the oldest event that failed and waits.", "subscription"),
		inFlight:    gauge("in_flight", "Posts under way.", "subscription"),
		blocked:     gauge("blocked", "1 while something holds the commit back, by reason.", "subscription", "reason"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "taskwire_bridge_attempt_seconds", Help: "Time of one post.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"subscription"}),
	}
	reg.MustRegister(m.seconds)
	return m
}

func (m *Metrics) attempted(subscription string, outcome deliver.Outcome, took time.Duration) {
	m.attempts.WithLabelValues(subscription, string(outcome)).Inc()
	m.seconds.WithLabelValues(subscription).Observe(took.Seconds())
}

// forget drops what is only true of partitions this member has.
func (m *Metrics) forget(subscription string) {
	of := prometheus.Labels{"subscription": subscription}
	m.lag.DeletePartialMatch(of)
	m.blocked.DeletePartialMatch(of)
	m.inFlight.DeletePartialMatch(of)
	m.oldest.DeletePartialMatch(of)
}

// Observe sets the gauges from the partitions' states; to be called before they are read.
func (s *Subscription) Observe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	name, flying, oldest := s.cfg.Name, 0, 0.0
	s.metrics.blocked.DeletePartialMatch(prometheus.Labels{"subscription": name})
	for _, p := range s.partitions {
		status, blocked := p.snapshot(now)
		s.metrics.lag.WithLabelValues(name, strconv.Itoa(p.id)).Set(float64(status.Lag))
		flying += status.InFlight
		oldest = max(oldest, status.OldestSeconds)
		if blocked != "" {
			s.metrics.blocked.WithLabelValues(name, blocked).Set(1)
		}
	}
	s.metrics.inFlight.WithLabelValues(name).Set(float64(flying))
	s.metrics.oldest.WithLabelValues(name).Set(oldest)
}
