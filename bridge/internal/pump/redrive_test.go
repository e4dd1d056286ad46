package pump_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/seal"
)

func everyLetter(deadletter.Stored) bool { return true }

// letter is a record of the dead-letter topic, as the bridge writes them.
func letter(subscription, id, key string, headers ...string) *kgo.Record {
	r := event(id, key)
	r.Topic = "dlq"
	headers = append(headers, "dlq-topic", "events", "dlq-partition", "0", "dlq-offset", "7", "dlq-timestamp", "2026-01-02T03:04:05Z", "dlq-group", "group",
		"dlq-subscription", subscription, "dlq-reason", "rejected", "dlq-attempts", "1", "dlq-first-failure", "2026-01-02T03:04:06Z", "dlq-last-failure", "2026-01-02T03:04:06Z")
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	return r
}

func ids(letters []deadletter.Stored) (ids []string) {
	for _, l := range letters {
		ids = append(ids, l.ID)
	}
	return ids
}

func (b *bundle) redrive(s *pump.Subscription, r *pump.Redrive) pump.Progress {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := s.Redrive(ctx, r); err != nil {
		b.t.Fatalf("Redrive = %v after %+v", err, r.Progress())
	}
	return r.Progress()
}

// TestARedriveDeliversWhatWasRefused: events become letters, the sink is mended,
// and the letters are delivered in order, with their first places, and are done.
func TestARedriveDeliversWhatWasRefused(t *testing.T) {
	var mended atomic.Bool
	s := newSink(t, func(id string, _ int) int {
		if mended.Load() {
			return 204
		}
		return 422
	})
	b := setup(t, s.server.URL)
	b.cfg.Keys = func() seal.Keys { return seal.Keys{[]byte("0123456789abcdef0123456789abcdef")} }
	b.produce(events(100, 7)...)
	sub, _ := b.run()
	b.untilCommitted(100)
	if n := len(b.open()); n != 100 {
		t.Fatalf("%d open letters, want 100", n)
	}
	mended.Store(true)
	if got := b.redrive(sub, &pump.Redrive{Select: everyLetter}); got.Delivered != 100 || got.Failed+got.Open+got.Unread+got.InHand != 0 {
		t.Errorf("progress %+v, want 100 delivered and nothing else", got)
	}
	inOrder(t, s)
	if n := len(b.open()); n != 0 {
		t.Errorf("%d letters are open after the redrive, want none", n)
	}
	if got := b.redrive(sub, &pump.Redrive{Select: everyLetter}); got.Delivered != 0 || len(s.accepted()) != 100 {
		t.Errorf("a second redrive delivered %d, %d accepted in all; want nothing twice", got.Delivered, len(s.accepted()))
	}
}

// TestALetterThatFailsAgainIsANewOne, which says how often that was, and keeps
// where and when the event failed first.
func TestALetterThatFailsAgainIsANewOne(t *testing.T) {
	s := newSink(t, func(string, int) int { return 422 })
	b := setup(t, s.server.URL)
	b.produce(letter("sub", "a", "k", "dlq-redrives", "2"))
	sub, _ := b.run()
	if got := b.redrive(sub, &pump.Redrive{Select: everyLetter}); got.Failed != 1 || got.Delivered != 0 {
		t.Errorf("progress %+v, want one that failed", got)
	}
	letters, open := b.letters(), b.open()
	if len(letters) != 2 || len(open) != 1 || open[0].Offset != 1 {
		t.Fatalf("%d letters, open %+v; want two, the second one open", len(letters), open)
	}
	l := open[0].Letter
	if l.Redrives != 3 || l.Topic != "events" || l.Offset != 7 || l.Group != "group" || l.Attempts != 2 || l.Reason != "rejected" || l.Status != 422 ||
		!l.First.Equal(time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)) {
		t.Errorf("letter %+v", l)
	}
	if string(open[0].Record.Value) != string(letters[0].Record.Value) || len(open[0].Record.Headers) != 1+14 {
		t.Errorf("the record changed: %q, headers %v", open[0].Record.Value, open[0].Record.Headers)
	}
}

// TestOnlyWhatIsSelectedIsDelivered: other letters stay open, and those of other
// subscriptions are neither delivered nor in the way.
func TestOnlyWhatIsSelectedIsDelivered(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	var records []*kgo.Record
	for i := range 60 {
		records = append(records, letter([]string{"sub", "other"}[i%2], fmt.Sprintf("%02d", i), fmt.Sprintf("k%d", i%4)))
	}
	b.produce(records...)
	sub, _ := b.run()
	first := deadletter.Selection{Keys: []string{"k2"}}
	if got := b.redrive(sub, &pump.Redrive{Select: first.Match}); got.Delivered != 15 || got.Open != 15 {
		t.Errorf("progress %+v, want 15 delivered and 15 open", got)
	}
	open := b.open()
	if len(open) != 15 || slices.ContainsFunc(open, func(l deadletter.Stored) bool { return string(l.Record.Key) != "k0" }) {
		t.Errorf("open %v, want the 15 of k0", ids(open))
	}
	if got := b.redrive(sub, &pump.Redrive{Select: func(l deadletter.Stored) bool { return l.ID > "30" }, Ignore: &pump.Ignored{Reason: "r", By: "b"}}); got.Ignored != 7 || got.Delivered != 0 {
		t.Errorf("progress %+v, want 7 ignored", got)
	}
	if got := b.redrive(sub, &pump.Redrive{Select: everyLetter}); got.Delivered != 8 || got.Open != 0 {
		t.Errorf("progress %+v, want the last 8 delivered", got)
	}
	inOrder(t, s)
	if p := b.positions()[0]; p.Committed != 60 {
		t.Errorf("committed %d, want the end: letters of other subscriptions are no lag", p.Committed)
	}
}

func TestAPassWithoutASelectionMovesOverForeignLetters(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	b.produce(letter("other", "a", "k"), letter("other", "b", "k"), letter("sub", "c", "k"), letter("other", "d", "k"))
	sub, _ := b.run()
	if got := b.redrive(sub, &pump.Redrive{}); got.Open != 1 || s.total() != 0 {
		t.Errorf("progress %+v, %d posts; want one open letter and no post", got, s.total())
	}
	if p := b.positions()[0]; p.Committed != 2 {
		t.Errorf("committed %d, want 2", p.Committed)
	}
}

func TestARedriveIsRefused(t *testing.T) {
	s := newSink(t, func(string, int) int { return 410 })
	b := setup(t, s.server.URL)
	b.produce(letter("sub", "a", "k"))
	sub, _ := b.run()
	refused := func(want string) {
		t.Helper()
		var r *pump.RefusedError
		if err := sub.Redrive(t.Context(), &pump.Redrive{Select: everyLetter}); !errors.As(err, &r) || !strings.Contains(r.Reason, want) {
			t.Errorf("Redrive = %v, want a refusal with %q", err, want)
		}
	}
	_ = sub.Pause(t.Context(), "for lunch", "test")
	refused("for lunch")
	_ = sub.Resume(t.Context(), "done", "test")
	refused("410") // the sink pauses the subscription in the middle of the pass
	if len(b.open()) != 1 {
		t.Error("the letter is not open any more")
	}
}

// TestTwoRedrivesExcludeEachOther: one waits until the other has left.
func TestTwoRedrivesExcludeEachOther(t *testing.T) {
	hold := make(chan struct{})
	s := newSink(t, func(string, int) int { <-hold; return 204 })
	b := setup(t, s.server.URL)
	b.produce(letter("sub", "a", "k"), letter("sub", "b", "k2"))
	sub, _ := b.run()
	done := make(chan error, 2)
	go func() { done <- sub.Redrive(t.Context(), &pump.Redrive{Select: everyLetter}) }()
	until(t, "the first one posts", func() bool { return s.count("a") == 1 })
	go func() { done <- sub.Redrive(t.Context(), &pump.Redrive{Select: everyLetter}) }()
	close(hold)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(s.accepted()); n != 2 {
		t.Errorf("%d posts of two letters, want each once", n)
	}
}

// A changed configuration replaces the subscription, and a redrive must not go on
// to the sink of before.
func TestARedriveEndsWithItsSubscription(t *testing.T) {
	var status atomic.Int32
	status.Store(422)
	s := newSink(t, func(string, int) int { return int(status.Load()) })
	b := setup(t, s.server.URL)
	b.produce(events(3, 3)...)
	sub, stop := b.run()
	b.untilCommitted(3)
	status.Store(503)
	ended := make(chan error, 1)
	r := &pump.Redrive{Select: everyLetter}
	go func() { ended <- sub.Redrive(t.Context(), r) }()
	until(t, "the redrive meets the sink", func() bool { return r.Progress().Problem != "" })
	stop()
	var refused *pump.RefusedError
	if err := <-ended; !errors.As(err, &refused) {
		t.Errorf("Redrive = %v, want a refusal", err)
	}
	if n := len(b.open()); n != 3 {
		t.Errorf("%d open letters, want 3", n)
	}
}
