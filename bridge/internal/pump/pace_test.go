package pump_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/kafka"
)

// spread makes a topic of several partitions and puts n events on it, in turn and
// each with a key of its own.
func (b *bundle) spread(partitions, n int) {
	b.t.Helper()
	if err := kafka.EnsureTopic(b.t.Context(), b.client, "many", partitions, true); err != nil {
		b.t.Fatal(err)
	}
	var recs []*kgo.Record
	for i := range n {
		rec := event(fmt.Sprintf("%05d", i), fmt.Sprintf("k%d", i))
		rec.Topic, rec.Partition = "many", int32(i%partitions)
		recs = append(recs, rec)
	}
	b.produce(recs...)
	b.cfg.Topic = "many"
}

// gauge is the value of a series of taskwire_bridge_blocked, 0 when there is none.
func (b *bundle) blocked(reason string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "taskwire_bridge_blocked" && labels(m)["reason"] == reason {
				return m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func labels(m *dto.Metric) prometheus.Labels {
	all := prometheus.Labels{}
	for _, l := range m.GetLabel() {
		all[l.GetName()] = l.GetValue()
	}
	return all
}

// limited is a sink that answers a number of posts with 429 while two posts of
// other partitions are with it, and notes when each post came.
type limited struct {
	server  *httptest.Server
	release chan struct{} // closed to answer those of before the 429

	mu     sync.Mutex
	at     []time.Time
	ended  time.Time // of the 429
	refuse int       // so many more
}

func newLimited(t *testing.T, refuse int, header http.Header) *limited {
	l := &limited{refuse: refuse, release: make(chan struct{})}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.at = append(l.at, time.Now())
		nth := len(l.at)
		throttle := nth >= 3 && l.refuse > 0
		if throttle {
			l.refuse--
			l.ended = time.Now()
		}
		l.mu.Unlock()
		switch {
		case nth < 3:
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
			select {
			case <-l.release:
			case <-r.Context().Done(): // the test has failed
			}
		case throttle:
			for name, values := range header {
				w.Header()[name] = values
			}
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(l.server.Close)
	return l
}

func (l *limited) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at)
}

// TestA429HoldsEveryPartition: three posts are with the sink, of three partitions,
// when it answers one with 429. The other two are accepted, and yet their
// partitions post nothing more before the time is over.
func TestA429HoldsEveryPartition(t *testing.T) {
	l := newLimited(t, 1, http.Header{"Retry-After": {"1"}})
	b := setup(t, l.server.URL)
	b.spread(3, 12)
	b.cfg.Backoff.Max = time.Second                   // the longest Retry-After is ten times that
	b.cfg.Order, b.cfg.Attempts = pump.ByPartition, 1 // one post of each partition at a time, and no second attempt
	sub, stop := b.run()
	until(t, "the reason shown", func() bool { return strings.HasPrefix(sub.View(t.Context()).Reason, "rate limited until 20") })
	close(l.release)
	until(t, "the reason shown for the partition that waits", func() bool {
		for _, p := range sub.Status() {
			if p.Blocking != nil && strings.HasPrefix(p.Blocking.Reason, "rate limited until 20") && strings.Contains(p.Blocking.Reason, "429") {
				return true
			}
		}
		return false
	})
	if l.count() == 3 && b.blocked("rate_limited") != 1 {
		t.Error("taskwire_bridge_blocked does not say rate_limited")
	}
	until(t, "everything posted", func() bool { return l.count() == 13 })
	stop()
	for _, at := range l.at[3:] {
		if after := at.Sub(l.ended); after < time.Second {
			t.Errorf("a post came %v after a 429 that asked for 1s", after)
		}
	}
	if letters := b.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters: a 429 counts as no attempt", len(letters))
	}
	if v := sub.View(t.Context()); strings.Contains(v.Reason, "rate limited") {
		t.Errorf("reason = %q after the time is over", v.Reason)
	}
}

// TestA429WithoutATime takes the back-off, which grows from one 429 to the next,
// and counts as no attempt however often it comes.
func TestA429WithoutATime(t *testing.T) {
	s := newSink(t, func(id string, try int) int {
		if id == "00001" && try <= 12 {
			return 429
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.Attempts = 2
	b.produce(events(4, 4)...)
	_, stop := b.run()
	b.untilCommitted(4)
	stop()
	if n := s.count("00001"); n != 13 || len(b.letters()) != 0 {
		t.Errorf("%d posts and %d dead letters, want 13 and none", n, len(b.letters()))
	}
}

// TestA429ForTooLong: time counts against every event.
func TestA429ForTooLong(t *testing.T) {
	s := newSink(t, func(id string, _ int) int {
		if id == "00001" {
			return 429
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.For = 200 * time.Millisecond
	b.produce(events(4, 4)...)
	_, stop := b.run()
	b.untilCommitted(4)
	stop()
	if letters := b.letters(); len(letters) != 1 || letters[0].Letter.Reason != deadletter.Exhausted || letters[0].Letter.Status != 429 {
		t.Errorf("letters = %+v, want one that is exhausted", letters)
	}
}

// TestAStopDuringAHoldDoesNotWaitForItsEnd and loses nothing.
func TestAStopDuringAHoldDoesNotWaitForItsEnd(t *testing.T) {
	l := newLimited(t, 1000, http.Header{"Retry-After": {"3600"}})
	close(l.release)
	b := setup(t, l.server.URL)
	b.cfg.Backoff.Max = time.Hour
	b.spread(2, 10)
	sub, stop := b.run()
	until(t, "the hold", func() bool { return strings.Contains(sub.View(t.Context()).Reason, "rate limited") })
	start := time.Now()
	stop()
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// TestTheRateIsOfAllPartitionsTogether: at 20 posts a second, of which 2 may come
// at once, 14 take at least 600 ms, from however many partitions.
func TestTheRateIsOfAllPartitionsTogether(t *testing.T) {
	s := newSink(t, func(string, int) int { return 200 })
	b := setup(t, s.server.URL)
	b.cfg.Rate = 20
	b.spread(4, 14)
	start := time.Now()
	_, stop := b.run()
	until(t, "everything accepted", func() bool { return len(s.accepted()) == 14 })
	if took := time.Since(start); took < 600*time.Millisecond {
		t.Errorf("14 posts took %v, want at least 600ms", took)
	}
	stop()
}
