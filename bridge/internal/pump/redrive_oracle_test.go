package pump_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	ce "github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

// redriveOracle knows what redrives may have done, from what the sink has seen.
type redriveOracle struct {
	*bundle
	rand    *rand.Rand
	crashes int

	mu       sync.Mutex
	accepted map[string]int // by event id, ever
	now      map[string]int // in this pass
	posted   map[string]bool
	offsets  map[string]int64 // of the open letters, by event id
	last     map[string]int64 // offset of the last accepted letter of a key, in this pass
	refuse   int              // one of so many posts is refused; 0 for none
	fail     int              // one of so many fails otherwise
	posts    int
	strike   int // the post at which strikes ends the pass; -1 for never
	strikes  func()
	ignored  map[string]bool
}

// answer is the sink's. An id begins with its key.
func (o *redriveOracle) answer(id string, _ int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := id[:2]
	o.posted[id] = true
	if o.posts++; o.posts == o.strike {
		o.strikes()
	}
	switch {
	case o.refuse > 0 && o.rand.IntN(o.refuse) == 0:
		return 422
	case o.fail > 0 && o.rand.IntN(o.fail) == 0:
		return [...]int{503, -1, 429}[o.rand.IntN(3)]
	}
	o.accepted[id]++
	o.now[id]++
	if at := o.offsets[id]; at >= 0 {
		if at < o.last[key] {
			o.t.Errorf("key %s: the letter at %d was accepted after that at %d", key, at, o.last[key])
		}
		o.last[key] = at
	}
	return 204
}

// process is a subscription with connections of its own, which crash cuts.
func (o *redriveOracle) process() (s *pump.Subscription, crash func()) {
	cfg := kafka.Config{Brokers: []string{o.broker.Addr()}, ClientID: "bridge"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(transport.Close)
	log := slog.New(slog.DiscardHandler)
	client := kafka.NewClient(cfg, transport)
	s, err = pump.New(o.cfg, client, kafka.NewProducer(client, log), pump.NewBudget(o.budget), pump.NewMetrics(prometheus.NewRegistry()), log)
	if err != nil {
		o.t.Fatal(err)
	}
	return s, transport.Close
}

// choose returns a random selection.
func (o *redriveOracle) choose() func(deadletter.Stored) bool {
	switch o.rand.IntN(3) {
	case 0:
		key := fmt.Sprintf("k%d", o.rand.IntN(5))
		return deadletter.Selection{Keys: []string{key}}.Match
	case 1:
		salt := o.rand.IntN(3)
		return func(l deadletter.Stored) bool { return (int(l.Offset)+salt)%3 == 0 }
	}
	return everyLetter
}

func places(letters []deadletter.Stored) map[string]deadletter.Stored {
	m := map[string]deadletter.Stored{}
	for _, l := range letters {
		m[l.Place()] = l
	}
	return m
}

// pass makes one, and judges what it has left behind.
func (o *redriveOracle) pass(name string, chosen func(deadletter.Stored) bool, ignore, interrupt, crash bool) {
	o.t.Helper()
	before := places(o.open())
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	s, cut := o.process()
	o.mu.Lock()
	o.now, o.posted, o.last, o.posts, o.strike = map[string]int{}, map[string]bool{}, map[string]int64{}, 0, -1
	o.offsets = map[string]int64{}
	for _, l := range before {
		o.offsets[l.ID] = l.Offset
		if o.twice(before, l) {
			o.offsets[l.ID] = -1 // which of them it is cannot be told
		}
	}
	if interrupt || crash {
		o.strike = 1 + o.rand.IntN(20)
	}
	o.strikes = func() {
		if crash {
			cut()
		}
		cancel()
	}
	o.mu.Unlock()
	r := &pump.Redrive{Select: chosen}
	r.SetSession(6 * time.Second) // the least that brokers allow
	if ignore {
		r.Ignore = &pump.Ignored{Reason: "r", By: "b"}
	}
	err := s.Redrive(ctx, r)
	o.mu.Lock()
	defer o.mu.Unlock()
	struck := o.strike > 0 && o.posts >= o.strike
	crashed := struck && crash
	if crashed {
		o.crashes++
	}
	if (err != nil) != struck && !(struck && err == nil) || (err != nil && !errors.Is(err, context.Canceled)) {
		o.t.Fatalf("%s: Redrive = %v, struck %v", name, err, struck)
	}
	after := places(o.open())
	again := map[string]int{}
	for place, l := range after {
		if _, old := before[place]; !old {
			again[l.ID]++
			if l.Letter.Redrives == 0 || l.Letter.Subscription != "sub" {
				o.t.Errorf("%s: new letter %+v", name, l.Letter)
			}
		}
	}
	for place, l := range before {
		_, open := after[place]
		done := !open
		switch {
		case done && !chosen(l):
			o.t.Errorf("%s: letter %s of %s was not selected and is done", name, place, l.ID)
		case done && ignore:
			o.ignored[l.ID] = true
		case done && o.now[l.ID] == 0 && again[l.ID] == 0:
			o.t.Errorf("%s: LOST: letter %s of %s is done, and neither accepted nor a new letter", name, place, l.ID)
		case open && chosen(l) && err == nil:
			o.t.Errorf("%s: letter %s of %s was selected and is open after a complete pass", name, place, l.ID)
		case open && o.now[l.ID] > 0 && !crashed && !o.twice(before, l):
			o.t.Errorf("%s: letter %s of %s was accepted and is open", name, place, l.ID)
		}
		if o.posted[l.ID] && (ignore || !chosen(l)) && again[l.ID] == 0 && !o.twice(before, l) {
			o.t.Errorf("%s: %s was posted without having been selected", name, l.ID)
		}
	}
}

// twice reports whether a crash has left two letters of one event.
func (o *redriveOracle) twice(open map[string]deadletter.Stored, l deadletter.Stored) bool {
	n := 0
	for _, other := range open {
		if other.ID == l.ID {
			n++
		}
	}
	return n > 1
}

// TestRedrivesAgainstAnOracle makes random passes over random letters with a sink
// that refuses and fails, ends some of them at a random post, by a stop or by a
// crash, and checks that no letter is ever done without its effect, that none is
// done which was not selected, and that nothing is delivered twice but for what a
// crash found in flight.
func TestRedrivesAgainstAnOracle(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // a crash takes a session timeout
			o := &redriveOracle{rand: rand.New(rand.NewPCG(seed, 1)), accepted: map[string]int{}, ignored: map[string]bool{}}
			s := newSink(t, o.answer)
			o.bundle = setupWith(t, s.server.URL, 2)
			o.cfg.Concurrency, o.cfg.Drain = 4, time.Second
			var records []ce.Record
			for i := range 150 {
				n := o.rand.IntN(5)
				r := letter([]string{"sub", "sub", "other"}[o.rand.IntN(3)], fmt.Sprintf("k%d-%04d", n, i), fmt.Sprintf("k%d", n))
				rec := ce.Record{Key: r.Key, Value: r.Value}
				for _, h := range r.Headers {
					rec.Headers = append(rec.Headers, ce.Header{Key: h.Key, Value: h.Value})
				}
				records = append(records, rec)
			}
			// The bridge's own producer puts a key where its letters are.
			if err := kafka.NewProducer(o.client, slog.New(slog.DiscardHandler)).Produce(t.Context(), "dlq", records); err != nil {
				t.Fatal(err)
			}
			wanted := map[string]bool{}
			for _, l := range o.open() {
				wanted[l.ID] = true
			}
			for n := range 8 {
				o.refuse, o.fail = []int{0, 3, 8}[o.rand.IntN(3)], []int{0, 5}[o.rand.IntN(2)]
				ignore, crash := o.rand.IntN(6) == 0, seed%2 == 1 && n < 6 && n%3 == 1
				o.pass(fmt.Sprintf("pass %d", n), o.choose(), ignore, !crash && o.rand.IntN(2) == 0, crash)
				if t.Failed() {
					return
				}
			}
			o.refuse, o.fail = 0, 0
			o.pass("the last pass", everyLetter, false, false, false)
			twice := 0
			for id := range wanted {
				switch n := o.accepted[id]; {
				case n == 0 && !o.ignored[id]:
					t.Errorf("%s was never accepted", id)
				case n > 1:
					twice++
				}
			}
			// What was in flight and what was not marked, in each of two partitions.
			if most := o.crashes * 2 * o.cfg.Concurrency; twice > most {
				t.Errorf("%d events were accepted twice, want at most %d after %d crashes", twice, most, o.crashes)
			}
			t.Logf("%d letters, %d crashes, %d accepted twice", len(wanted), o.crashes, twice)
		})
	}
}
