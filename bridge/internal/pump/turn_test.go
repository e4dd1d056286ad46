package pump

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

func TestHolds(t *testing.T) {
	backoff := deliver.Backoff{Initial: time.Hour, Multiplier: 1, Max: time.Hour}
	result := func(after time.Duration) deliver.Result {
		return deliver.Result{Outcome: deliver.Throttled, Status: http.StatusTooManyRequests, RetryAfter: after, Err: errors.New("sink answered 429")}
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := newPace(0)
		if p.held(start) != nil {
			t.Fatal("a new pace holds")
		}
		first, isNew := p.throttled(result(2*time.Hour), start, start, backoff)
		if !isNew || first.rounds != 1 || !first.until.Equal(start.Add(2*time.Hour)) {
			t.Errorf("first = %+v, want 2h", first)
		}
		second, isNew := p.throttled(result(0), start.Add(-time.Second), start.Add(time.Second), backoff)
		if isNew || second.rounds != 1 || !second.until.Equal(first.until) {
			t.Errorf("a second answer of the same round = %+v, want that it shortens nothing and is no new round", second)
		}
		third, _ := p.throttled(result(100*time.Hour), start.Add(-time.Second), start, backoff)
		if !third.until.Equal(start.Add(10 * time.Hour)) {
			t.Errorf("a Retry-After of 100h = until %v, want ten times the longest back-off", third.until)
		}
		p.accepted(start.Add(time.Hour))
		if p.held(start.Add(time.Hour)) == nil {
			t.Error("a 2xx to a post from before the hold has lifted it")
		}
		if p.held(third.until) != nil {
			t.Error("it holds at the end of its time")
		}
		if next, isNew := p.throttled(result(0), third.until, third.until, backoff); !isNew || next.rounds != 2 {
			t.Errorf("a 429 after the hold = %+v, want a second round", next)
		}
		p.accepted(start.Add(1000 * time.Hour))
		if again, _ := p.throttled(result(0), start.Add(1001*time.Hour), start.Add(1001*time.Hour), backoff); again.rounds != 1 {
			t.Errorf("a 429 after a success = %+v, want a first round", again)
		}
	})
}

// TestTurnsAreTakenInOrder: of two partitions with much to post neither waits
// twice in a row, and a place that nobody uses is given to another.
func TestTurnsAreTakenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := newPace(2)
		var a, b, c turn
		for i, tu := range []*turn{&a, &b, &c} {
			if at, want := tu.take(p, start), start.Add(time.Duration(i)*500*time.Millisecond); !at.Equal(want) {
				t.Errorf("turn %d is at %v, want %v", i, at.Sub(start), want.Sub(start))
			}
			if again := tu.take(p, start); !again.Equal(tu.at) {
				t.Errorf("turn %d was taken twice", i)
			}
		}
		c.giveBack()
		a.use()
		if at := a.take(p, start); !at.Equal(start.Add(time.Second)) {
			t.Errorf("the next turn is at %v, want the one that was given back at 1s", at.Sub(start))
		}
	})
}
