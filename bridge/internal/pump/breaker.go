package pump

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// downKeys is how many keys fail, with no success between, until the sink
	// counts as down.
	downKeys = 3
	// probeEvery bounds the pause between two probes, unless the sink asks for a
	// longer one. The back-off of an event may be much longer.
	probeEvery = 5 * time.Second
	// firstPosts is how many posts at once a sink gets that is back. Each one that it
	// answers allows one more: a thousand keys that have waited do not arrive together.
	firstPosts = 2
)

// breaker tells a sink that is down from an event that is bad, for all partitions
// of a subscription: when several keys fail and none gets through, or no connection
// comes about, the sink is at fault. While it is down, one event of the subscription
// at a time is posted as a probe, and none before the pause that the last probe's
// failure asked for is over. When it is back, the posts grow with its answers.
//
// It has no clock and no goroutine. At most one attempt of a key may be under way.
type breaker struct {
	calm   atomic.Bool  // nothing fails and nothing is limited: no lock is needed
	rounds atomic.Int64 // recoveries: what waits for the sink then need not wait

	mu        sync.Mutex
	failing   map[place]struct{} // whose last attempt failed, since the last success
	unreached bool               // no connection came about the last time
	probing   bool               // a probe is under way
	probe     place              // of it
	probes    int                // failed in a row
	next      time.Time          // no probe before
	err       error              // of the last failure
	limit     int                // posts at once; 0 for no limit
	limited   int                // posts begun under it in this round: those from before may hang
	most      int                // posts at once of all partitions
}

// place is a key in its partition.
type place struct {
	partition int
	key       string
}

func newBreaker() *breaker {
	b := &breaker{failing: map[place]struct{}{}}
	b.calm.Store(true)
	return b
}

// join counts a partition with so many posts at once.
func (b *breaker) join(posts int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most += posts
}

// leave forgets a partition, whose posts have ended.
func (b *breaker) leave(partition, posts int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most -= posts
	for at := range b.failing {
		if at.partition == partition {
			delete(b.failing, at)
		}
	}
	b.settle()
}

// settle needs the lock.
func (b *breaker) settle() { b.calm.Store(len(b.failing) == 0 && b.limit == 0) }

// down reports whether the sink, not an event, is at fault.
func (b *breaker) down() bool {
	if b.calm.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isDown()
}

// isDown needs the lock.
func (b *breaker) isDown() bool {
	return len(b.failing) >= downKeys || b.unreached && len(b.failing) > 0
}

// probeAt is when the next probe may begin, if the sink is down and none is under way.
func (b *breaker) probeAt() (at time.Time, ok bool) {
	if b.calm.Load() {
		return time.Time{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next, b.isDown() && !b.probing
}

// holds reports whether a post has to wait for the posts of other partitions, which
// nobody tells this one of.
func (b *breaker) holds() bool {
	if b.calm.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isDown() || b.limit > 0 && b.limited >= b.limit
}

// lastErr is of the last failure, nil since the last success.
func (b *breaker) lastErr() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// begin reports whether a post of a key may begin at now, and notes that it does.
// ended wants the round.
func (b *breaker) begin(at place, now time.Time) (round int64, ok bool) {
	if b.calm.Load() {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.isDown():
		if b.probing || b.next.After(now) {
			return 0, false
		}
		b.probing, b.probe = true, at
	case b.limit > 0 && b.limited >= b.limit:
		return 0, false
	case b.limit > 0:
		b.limited++
		return b.rounds.Load(), true
	}
	return 0, true
}

// ended notes the end of an attempt, before its outcome is booked. It reports
// whether the attempt was the probe.
func (b *breaker) ended(at place, round int64) (probe bool) {
	if b.calm.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if round > 0 && round == b.rounds.Load() {
		b.limited--
	}
	if !b.probing || b.probe != at {
		return false
	}
	b.probing = false
	return true
}

// failed books a failure of the sink; unreached says that no connection came about.
// It returns how many probes have failed in a row when that puts the next one off,
// which the caller does with putOff, else 0.
//
// Posts that were in flight when the sink went down are no probes. Counted as
// such, one blip would put the first probe off by the longest pause.
func (b *breaker) failed(at place, probe, unreached bool, err error) (probes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasDown := b.isDown()
	b.failing[at] = struct{}{}
	b.err, b.unreached = err, unreached
	if b.limit > 0 {
		b.limit = max(firstPosts, b.limit/2)
	}
	b.settle()
	if !probe && (wasDown || !b.isDown()) {
		return 0
	}
	b.limit = 0
	b.probes++
	return b.probes
}

// putOff sets the time of the next probe.
func (b *breaker) putOff(next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = next
}

// recovered books an answer that shows the sink at work. It reports whether the
// sink counted as down.
func (b *breaker) recovered() (wasDown bool) {
	if b.calm.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	wasDown = b.isDown()
	clear(b.failing)
	b.probes, b.err, b.unreached = 0, nil, false
	switch {
	case wasDown:
		b.rounds.Add(1)
		b.probing, b.limit, b.limited = false, firstPosts, 0
	case b.limit > 0:
		if b.limit++; b.limit >= b.most {
			b.limit = 0
		}
	}
	b.settle()
	return wasDown
}

// forget drops a key whose event is out of the way.
func (b *breaker) forget(at place) {
	if b.calm.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.failing, at)
	b.settle()
}
