package pump

import (
	"errors"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
)

// Status is what an operator wants to know of one partition.
type Status struct {
	Partition     int     `json:"partition"`
	Committed     int64   `json:"committed"` // -1: nothing yet
	End           int64   `json:"end"`       // -1: not known yet
	Lag           int64   `json:"lag"`       // end - committed
	InFlight      int     `json:"in_flight"`
	OldestSeconds float64 `json:"oldest_unacked_seconds"`
	Blocking      *Block  `json:"blocking"` // null when nothing holds the commit back
}

// Block is what holds a partition's commit back.
type Block struct {
	Offset   int64  `json:"offset"`
	Key      string `json:"key"`
	EventID  string `json:"event_id,omitempty"`
	Attempts int    `json:"attempts"`
	Reason   string `json:"reason"`
}

// statusBox is written by the partition's loop and read by whoever asks.
type statusBox struct {
	mu        sync.Mutex
	s         Status
	blocked   string    // reason label of taskwire_bridge_blocked
	oldest    time.Time // since when the lowest offset in flight is here; zero when there is none
	published time.Time // owned by the loop
	stale     bool      // likewise: something may have changed since
}

// publishEvery is the least time between two states: more are not worth their cost.
const publishEvery = 50 * time.Millisecond

// publish writes the status, not more often than every publishEvery.
func (p *partition) publish(now time.Time, paused bool) {
	b := &p.status
	if b.stale = now.Sub(b.published) < publishEvery; b.stale {
		return
	}
	b.published = now
	s := Status{Partition: p.id, Committed: p.committer.offset, End: p.end, InFlight: p.inFlight}
	if p.end >= 0 {
		s.Lag = p.end - max(s.Committed, 0)
	}
	var oldest time.Time
	blocked := ""
	if it := p.window.lowest(); it != nil {
		oldest = it.received
		s.Blocking, blocked = p.blocking(it)
		if h := p.sub.pace.held(now); h != nil && it.state != writing {
			s.Blocking, blocked = &Block{Offset: it.offset, Key: it.queue.key, EventID: it.event, Attempts: it.attempts, Reason: h.String()}, "rate_limited"
		}
	}
	var tooLarge *fetch.TooLargeError
	switch {
	case errors.Is(p.fetchErr, errLost):
		blocked = "offset_out_of_range"
	case errors.As(p.fetchErr, &tooLarge):
		blocked = "record_too_large"
	case paused:
		blocked = "paused"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s, b.blocked, b.oldest = s, blocked, oldest
}

// blocking is what holds the commit back at it, the lowest offset in flight,
// with the reason label of the metric; nil while nothing has failed.
func (p *partition) blocking(it *item) (block *Block, reason string) {
	err := it.err
	switch {
	case it.unwritten > 0:
		reason, err = "deadletter", it.letterErr
	case it.state == writing:
		return nil, "" // its dead letter is on its way
	case it.state == undecoded && it.err == nil:
		return nil, "" // its schema is being fetched
	case it.state == undecoded:
		reason = "schema"
	case p.sub.breaker.down():
		reason = "sink"
	case it.attempts > 0:
		reason = "event"
	default:
		return nil, ""
	}
	if err == nil {
		err = p.sub.breaker.lastErr() // not tried yet: it waits for the sink
	}
	return &Block{Offset: it.offset, Key: it.queue.key, EventID: it.event, Attempts: it.attempts, Reason: err.Error()}, reason
}

func (p *partition) snapshot(now time.Time) (Status, string) {
	b := &p.status
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	s.Partition = p.id
	if !b.oldest.IsZero() {
		s.OldestSeconds = now.Sub(b.oldest).Seconds()
	}
	return s, b.blocked
}
