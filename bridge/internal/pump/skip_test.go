package pump_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	taskevent "github.com/taskwire/taskwire/internal/event"
)

// TestAnEventThatGrowsPastTheLimitIsSetAside: 900,000 bytes that become 1.2 MB of
// base64 are refused by every sink with 413, so a subscription that never skips
// would wait for ever.
func TestAnEventThatGrowsPastTheLimitIsSetAside(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	binary := func(id string, n int) *kgo.Record {
		r := &kgo.Record{Topic: "events", Key: []byte("k"), Value: bytes.Repeat([]byte{0xff}, n)}
		for name, value := range map[string]string{"ce_specversion": "1.0", "ce_id": id, "ce_source": "s", "ce_type": "t", "content-type": "application/octet-stream"} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
		return r
	}
	b.produce(binary("00000", 700_000), binary("00001", 900_000), event("00002", "k"))
	_, stop := b.run()
	b.untilCommitted(3)
	stop()
	letters := b.letters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	if l := letters[0]; l.Letter.Reason != deadletter.Malformed || l.Letter.Offset != 1 || len(l.Record.Value) != 900_000 ||
		l.Letter.Error != "the event is longer than 1048576 bytes in the form in which it would be posted" {
		t.Errorf("letter = %+v", l.Letter)
	}
	if diff := cmp.Diff([]string{"00000", "00002"}, s.accepted()); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
}

// refuser is a sink that refuses one id for ever.
type refuser struct {
	bad    string
	status int

	mu     sync.Mutex
	bodies []string // accepted
}

func (r *refuser) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	if strings.Contains(string(body), fmt.Sprintf(`"id":%q`, r.bad)) {
		w.WriteHeader(r.status)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, string(body))
	w.WriteHeader(http.StatusNoContent)
}

func (r *refuser) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}

func TestAnOperatorSkipsABlockingEvent(t *testing.T) {
	for name, status := range map[string]int{"refused": 400, "failing": 500} {
		t.Run(name, func(t *testing.T) {
			r := &refuser{bad: "00001", status: status}
			server := httptest.NewServer(r)
			t.Cleanup(server.Close)
			b := setup(t, server.URL)
			b.cfg.Block = true
			b.produce(events(6, 2)...) // 00001, 00003 and 00005 have one key
			sub, stop := b.run()
			until(t, "blocked", func() bool {
				ps := sub.Status()
				return len(ps) == 1 && ps[0].Blocking != nil && ps[0].Blocking.Offset == 1 && len(r.got()) == 3
			})
			for _, c := range []struct {
				wish pump.Skip
				want string
			}{
				{pump.Skip{Offset: 0}, "done already"},
				{pump.Skip{Offset: 3}, "waits for offset 1 of the same key"},
				{pump.Skip{Offset: 6}, "not fetched yet"},
				{pump.Skip{Partition: 1, Offset: 1}, "does not have the partition"},
			} {
				var refused *pump.RefusedError
				if err := sub.Skip(t.Context(), c.wish); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Skip(%+v) = %v, want a refusal: %s", c.wish, err, c.want)
				}
			}
			_ = sub.Pause(t.Context(), "maintenance", "test")
			if err := sub.Skip(t.Context(), pump.Skip{Offset: 1}); err == nil || !strings.Contains(err.Error(), "paused") {
				t.Errorf("Skip while paused = %v, want a refusal", err)
			}
			_ = sub.Resume(t.Context(), "done", "test")
			if err := sub.Skip(t.Context(), pump.Skip{Offset: 1, Reason: "the sink will never take it", By: "alice from 127.0.0.1"}); err != nil {
				t.Fatalf("Skip = %v", err)
			}
			b.untilCommitted(6)
			stop()

			letters := b.letters()
			if len(letters) != 1 {
				t.Fatalf("%d dead letters, want 1", len(letters))
			}
			if l := letters[0].Letter; l.Reason != deadletter.Skipped || l.Offset != 1 || l.SkippedBy != "alice from 127.0.0.1" || l.SkippedReason != "the sink will never take it" {
				t.Errorf("letter = %+v", l)
			}
			if v, _ := b.metric("taskwire_bridge_dead_letters_total", "reason", "skipped"); v != 1 {
				t.Errorf("taskwire_bridge_dead_letters_total{reason=skipped} = %v, want 1", v)
			}
			// The sink has the notice where the event would have been: before 3 and 5.
			var key []string
			for _, body := range r.got() {
				e, err := taskevent.Parse([]byte(body))
				if err != nil {
					t.Fatal(err)
				}
				if k, _ := taskevent.Attribute(e, "partitionkey"); k != "k1" {
					continue
				}
				if e.Type() != pump.TypeSkipped {
					key = append(key, e.ID())
					continue
				}
				var data map[string]any
				if err := json.Unmarshal(e.Data(), &data); err != nil {
					t.Fatal(err)
				}
				key = append(key, fmt.Sprintf("notice of %s by %s: %s", data["event_id"], data["by"], data["reason"]))
			}
			if diff := cmp.Diff([]string{"notice of 00001 by alice from 127.0.0.1: the sink will never take it", "00003", "00005"}, key); diff != "" {
				t.Errorf("the key's events at the sink (-want +got):\n%s", diff)
			}
		})
	}
}

// TestANoticeThatTheSinkRefusesBlocksNothing, and one that the filters do not ask
// for is not posted.
func TestANoticeThatTheSinkRefusesBlocksNothing(t *testing.T) {
	for name, filters := range map[string][]filter.Filter{"refused": nil, "filtered": {filter.Types([]string{"t"})}} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t, func(id string, _ int) int {
				if id == "00001" || strings.Contains(id, "skipped") {
					return 400
				}
				return 204
			})
			b := setup(t, s.server.URL)
			b.cfg.Block, b.cfg.Filters = true, filters
			b.produce(events(4, 1)...)
			sub, stop := b.run()
			until(t, "refused", func() bool { return s.count("00001") > 2 })
			until(t, "skipped", func() bool { return sub.Skip(t.Context(), pump.Skip{Offset: 1, Reason: "r", By: "b"}) == nil })
			b.untilCommitted(4)
			stop()
			if n := len(b.letters()); n != 1 {
				t.Errorf("%d dead letters, want 1", n)
			}
			notices := 0
			for _, p := range s.posts {
				if strings.Contains(p.ID, "skipped") {
					notices++
				}
			}
			if want := map[string]int{"refused": 1, "filtered": 0}[name]; notices != want {
				t.Errorf("%d notices posted, want %d", notices, want)
			}
		})
	}
}

// TestAnEventInFlightIsSkippedWhenItFailsAgain: what the sink accepts after all is
// not skipped.
func TestAnEventInFlightIsSkippedWhenItFailsAgain(t *testing.T) {
	for name, last := range map[string]int{"fails": 500, "accepted": 204} {
		t.Run(name, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			s := newSink(t, func(id string, try int) int {
				switch {
				case id != "00000" || try > 2:
					return 204
				case try == 1:
					return 500
				}
				close(entered)
				<-release
				return last
			})
			b := setup(t, s.server.URL)
			b.cfg.Block = true
			b.produce(events(2, 1)...)
			sub, stop := b.run()
			<-entered
			answers := make(chan error, 2)
			for range 2 {
				go func() { answers <- sub.Skip(t.Context(), pump.Skip{Offset: 0, Reason: "r", By: "b"}) }()
			}
			// The second wish is refused as soon as the first is there.
			if err := <-answers; err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("the second Skip = %v, want a refusal", err)
			}
			close(release)
			err := <-answers
			var refused *pump.RefusedError
			if last == 204 && (!errors.As(err, &refused) || !strings.Contains(err.Error(), "accepted")) || last == 500 && err != nil {
				t.Errorf("Skip = %v", err)
			}
			b.untilCommitted(2)
			stop()
			if want := map[string]int{"fails": 1, "accepted": 0}[name]; len(b.letters()) != want {
				t.Errorf("%d dead letters, want %d", len(b.letters()), want)
			}
		})
	}
}

// TestADeadSinkIsBlockedAtEveryScrape: an alert that is absent while a probe is
// due never fires.
func TestADeadSinkIsBlockedAtEveryScrape(t *testing.T) {
	s := newSink(t, func(string, int) int { return 503 })
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	b.cfg.Backoff = deliver.Backoff{Initial: time.Millisecond, Multiplier: 2, Max: 20 * time.Millisecond}
	b.produce(events(200, 50)...)
	_, stop := b.run()
	blocked := func() bool {
		v, found := b.metric("taskwire_bridge_blocked", "subscription", "sub", "reason", "sink")
		return found && v == 1
	}
	until(t, "blocked", blocked)
	before, scrapes, absent := s.total(), 0, 0
	until(t, "hundreds of scrapes over many probes", func() bool {
		scrapes++
		if !blocked() {
			absent++
		}
		return scrapes >= 300 && s.total() > before+30
	})
	stop()
	if absent > 0 {
		t.Errorf("taskwire_bridge_blocked was absent in %d of %d scrapes", absent, scrapes)
	}
}
