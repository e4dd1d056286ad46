package pump

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/latency"
)

// Metrics are the bridge's, for all subscriptions.
type Metrics struct {
	attempts    *prometheus.CounterVec
	seconds     *latency.Vec
	deadLetters *prometheus.CounterVec
	rebalances  *prometheus.CounterVec
	unsealed    *prometheus.CounterVec
	accepted    *prometheus.CounterVec
	redriven    *prometheus.CounterVec
	open        *prometheus.GaugeVec
	undecided   *prometheus.CounterVec
	lag         *prometheus.GaugeVec
	oldest      *prometheus.GaugeVec
	inFlight    *prometheus.GaugeVec
	blocked     *prometheus.GaugeVec
	expiring    *prometheus.GaugeVec
	headroom    *prometheus.GaugeVec

	mu   sync.Mutex
	subs []*Subscription // asked for their gauges at each scrape
}

// NewMetrics registers with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "taskwire_bridge_" + name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "taskwire_bridge_" + name, Help: help}, labels)
	}
	m := &Metrics{
		attempts:    counter("attempts_total", "Events posted to the sink, by outcome; the events of a batch count one by one.", "subscription", "outcome"),
		deadLetters: counter("dead_letters_total", "Dead letters written, by reason.", "subscription", "reason"),
		rebalances:  counter("rebalances_total", "Generations of the group after the first.", "subscription"),
		unsealed:    counter("unsealed_offsets_total", "Stored offsets that the bridge has not sealed, each time it got the partition.", "subscription"),
		accepted:    counter("accepted_offsets_total", "Unsealed offsets that an operator has accepted.", "subscription"),
		redriven:    counter("redriven_total", "Dead letters that an operator has dealt with, by outcome.", "subscription", "outcome"),
		undecided:   counter("filter_errors_total", "Events that an sql filter failed for, and was false.", "subscription"),
		lag:         gauge("lag", "End of the partition minus the committed offset.", "subscription", "partition"),
		oldest:      gauge("oldest_unacked_seconds", "Age of the oldest event that is fetched and not done.", "subscription"),
		inFlight:    gauge("in_flight", "Posts in flight.", "subscription"),
		expiring:    gauge("expiring_records", "Records that the group has not read and that are older than 80 % of the topic's retention.ms, at the replica that has partition 0.", "subscription", "partition"),
		headroom:    gauge("headroom_records", "Records that the topic still has and the group has read: at 0, the next that Kafka deletes is one that the group has not read. At the replica that has partition 0.", "subscription", "partition"),
		blocked:     gauge("blocked", "1 while something holds the commit back, by reason.", "subscription", "reason"),
		seconds:     latency.New(reg, "taskwire_bridge_attempt_seconds", "Time of one post.", 500*time.Microsecond, 16, "subscription"),
	}
	m.open = gauge("dead_letters_open", "Dead letters that nobody has dealt with, as of the last minute, at the replica that has partition 0.", "subscription")
	reg.MustRegister(m.open, (*gauges)(m))
	return m
}

// gauges are set when they are scraped: nothing has to tick in between.
type gauges Metrics

func (g *gauges) all() []*prometheus.GaugeVec {
	return []*prometheus.GaugeVec{g.lag, g.oldest, g.inFlight, g.blocked, g.expiring, g.headroom}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range g.all() {
		v.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.subs {
		s.observe()
	}
	for _, v := range g.all() {
		v.Collect(ch)
	}
}

// add starts every counter of a subscription at 0: a rate over a series that
// does not exist yet would miss the first event that it counts.
func (m *Metrics) add(s *Subscription) {
	name := s.cfg.Name
	for _, outcome := range []deliver.Outcome{deliver.Accepted, deliver.Retry, deliver.Throttled, deliver.SinkFault, deliver.Gone, deliver.Rejected} {
		m.attempts.WithLabelValues(name, string(outcome))
	}
	for _, reason := range []string{deadletter.Rejected, deadletter.Exhausted, deadletter.Malformed, deadletter.Expired, deadletter.Skipped} {
		m.deadLetters.WithLabelValues(name, reason)
	}
	m.rebalances.WithLabelValues(name)
	m.unsealed.WithLabelValues(name)
	m.accepted.WithLabelValues(name)
	for _, outcome := range redriveOutcomes {
		m.redriven.WithLabelValues(name, outcome)
	}
	m.undecided.WithLabelValues(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, s)
}

// drop removes the gauges of a subscription that has ended. Its counters stay, for
// one with the same name and other settings, until Forget.
func (m *Metrics) drop(s *Subscription) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = slices.DeleteFunc(m.subs, func(o *Subscription) bool { return o == s })
	for _, v := range (*gauges)(m).all() {
		v.DeletePartialMatch(prometheus.Labels{"subscription": s.cfg.Name})
	}
}

// Forget removes every metric of a subscription that is gone for good.
func (m *Metrics) Forget(subscription string) {
	label := prometheus.Labels{"subscription": subscription}
	for _, v := range []*prometheus.CounterVec{m.attempts, m.deadLetters, m.rebalances, m.unsealed, m.accepted, m.redriven, m.undecided} {
		v.DeletePartialMatch(label)
	}
	m.seconds.Delete("subscription", subscription)
	m.open.DeletePartialMatch(label)
}

// attempts are the series of one subscription that each post writes to.
type attempts struct {
	accepted prometheus.Counter
	of       *prometheus.CounterVec
	seconds  *latency.Histogram
}

// of returns those of a subscription, until Forget.
func (m *Metrics) of(subscription string) attempts {
	name := prometheus.Labels{"subscription": subscription}
	of := m.attempts.MustCurryWith(name)
	return attempts{of.WithLabelValues(string(deliver.Accepted)), of, m.seconds.Of(subscription)}
}

// count counts an attempt for each event of a post; trace is the id of its trace, "" for none.
func (a *attempts) count(r *post, took time.Duration, trace string) {
	a.seconds.Observe(took, trace)
	if r.result.Each == nil && r.result.Outcome == deliver.Accepted { // nearly always
		a.accepted.Add(float64(len(r.items)))
		return
	}
	for i := range r.items {
		a.of.WithLabelValues(string(r.of(i).Outcome)).Inc()
	}
}

// observe sets the gauges from the states of the partitions this member has now.
func (s *Subscription) observe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	name, inFlight, oldest := s.cfg.Name, 0, 0.0
	s.metrics.blocked.DeletePartialMatch(prometheus.Labels{"subscription": name})
	s.metrics.lag.DeletePartialMatch(prometheus.Labels{"subscription": name})
	for _, p := range s.partitions {
		status, blocked := p.snapshot(now)
		s.metrics.lag.WithLabelValues(name, strconv.Itoa(p.id)).Set(float64(status.Lag))
		inFlight += status.InFlight
		oldest = max(oldest, status.OldestSeconds)
		if blocked != "" {
			s.metrics.blocked.WithLabelValues(name, blocked).Set(1)
		}
	}
	var refused *deliver.NoConsentError
	if errors.As(s.missing, &refused) {
		s.metrics.blocked.WithLabelValues(name, "handshake").Set(1)
	}
	s.observeRetention()
	s.metrics.inFlight.WithLabelValues(name).Set(float64(inFlight))
	s.metrics.oldest.WithLabelValues(name).Set(oldest)
}
