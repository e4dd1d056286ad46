package pump

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// pace is when posts of a subscription may begin, from whichever partition they
// come: under its rate, and not before the time that a 429 asked for. It is this
// process's: other replicas have their own.
type pace struct {
	configured float64                      // posts per second; 0 for no limit
	limiter    atomic.Pointer[rate.Limiter] // nil for no limit
	last       atomic.Pointer[hold]
	mu         sync.Mutex // of those who replace last
}

// hold is what the last 429 asked for. It stays after its time, until a post is
// accepted, so that the next one without a Retry-After is longer.
type hold struct {
	set, until time.Time
	rounds     int // in a row; the answers to the posts of one round are one
	err        error
}

func newPace(perSecond float64) *pace {
	p := &pace{configured: perSecond}
	p.allow(0)
	return p
}

// allow sets the rate that the sink allows, 0 for any. The lower one of this and
// the configured one is in force.
func (p *pace) allow(perMinute int) {
	limit := p.configured
	if allowed := float64(perMinute) / 60; allowed > 0 && (limit <= 0 || allowed < limit) {
		limit = allowed
	}
	if limit <= 0 {
		p.limiter.Store(nil)
		return
	}
	// After a quiet time, what a tenth of a second allows may begin at once.
	p.limiter.Store(rate.NewLimiter(rate.Limit(limit), max(1, int(limit/10))))
}

// held is the hold in force at now, nil when there is none.
func (p *pace) held(now time.Time) *hold {
	if h := p.last.Load(); h != nil && h.until.After(now) {
		return h
	}
	return nil
}

// throttled books a 429 to a post that began at the given time. It returns the
// hold that is now in force, and whether a new round begins with it.
func (p *pace) throttled(r deliver.Result, began, now time.Time, b deliver.Backoff) (h *hold, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last.Load()
	if last == nil {
		last = &hold{}
	}
	h = &hold{set: last.set, until: last.until, rounds: last.rounds, err: r.Err}
	if isNew = !began.Before(last.set); isNew {
		h.set, h.rounds = now, last.rounds+1
	}
	if until := now.Add(b.Wait(h.rounds, r.RetryAfter)); until.After(h.until) {
		h.until = until
	}
	p.last.Store(h)
	return h, isNew
}

// accepted ends the rounds, unless a hold is in force: the answer to a post from
// before it lifts nothing.
func (p *pace) accepted(now time.Time) {
	if h := p.last.Load(); h != nil && !h.until.After(now) {
		p.last.CompareAndSwap(h, nil)
	}
}

func (h *hold) String() string {
	return fmt.Sprintf("rate limited until %s: %v", h.until.UTC().Format(time.RFC3339), h.err)
}

// turn is a partition's place under the rate. It is taken when there is something
// to post, and kept until it is used: so partitions that wait take turns, and each
// sleeps until its own.
type turn struct {
	taken *rate.Reservation
	at    time.Time
}

// take returns when the partition may post.
func (t *turn) take(p *pace, now time.Time) time.Time {
	if limiter := p.limiter.Load(); limiter != nil && t.taken == nil {
		t.taken = limiter.ReserveN(now, 1)
		t.at = now.Add(t.taken.DelayFrom(now))
	}
	return t.earliest(p, now)
}

// earliest is when the partition may post, as far as is known without a place.
func (t *turn) earliest(p *pace, now time.Time) time.Time {
	at := t.at
	if h := p.held(now); h != nil && h.until.After(at) {
		at = h.until
	}
	return at
}

func (t *turn) use() { *t = turn{} }

// giveBack lets another partition have an unused place.
func (t *turn) giveBack() {
	if t.taken != nil {
		t.taken.Cancel()
	}
}

// holdPosts keeps the whole subscription from posting, after a 429. A worker calls it,
// before the loop learns of the answer: no post of any partition begins in between.
func (p *partition) holdPosts(r deliver.Result, began time.Time) {
	h, isNew := p.sub.pace.throttled(r, began, time.Now(), p.sub.cfg.Backoff)
	if isNew && isPowerOfTwo(h.rounds) {
		p.sub.log.Warn("rate limited by the sink, nothing is posted", "until", h.until.UTC(), "in_a_row", h.rounds, "err", r.Err)
	}
}

// throttled: the event waits for the end of the hold. Neither it nor the sink is
// at fault, so only the time counts against the event.
func (p *partition) throttled(it *item, now time.Time) {
	switch {
	case it.skip != nil && !it.notice:
		p.setAside(it, deadletter.Skipped, now)
	case p.exhausted(it, deliver.Throttled, now):
		p.setAside(it, deadletter.Exhausted, now)
	default:
		due := now
		if h := p.sub.pace.held(now); h != nil {
			due = h.until
		}
		p.window.retry(it, due)
	}
}

// heldBack takes an item back that a worker has not posted.
func (p *partition) heldBack(it *item, now time.Time) {
	it.state = queued
	if it.skip != nil && !it.notice {
		it.fail(errNotTried, now)
		p.setAside(it, deadletter.Skipped, now)
		return
	}
	p.window.push(it)
}
