package pump

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// commitEvery is the least time between the beginnings of two requests. A restart
	// posts again what finished since the last one. It was chosen by measurement; the
	// documents have the table.
	commitEvery = 25 * time.Millisecond

	// gather is how long the first news waits for that of other partitions, whose
	// loops wake at the same time.
	gather = 2 * time.Millisecond

	commitTimeout     = 10 * time.Second
	lastCommitTimeout = 5 * time.Second // while a partition drains
)

// commits stores the offsets of all partitions of a member: one request is in
// flight, and it carries every partition that has news. Each partition gets its
// own answer; what the broker refuses of one holds back no other.
//
// The order of effects is that of each partition: its loop takes what is done
// from its tracker, hands it in, and hands in nothing more before the answer. So
// no request carries an offset that is not done, and none arrives after a later
// one. The process may die before, during or after a request: the offsets are
// then stored, or what is done is posted again. When a partition is revoked its
// last news does not wait for the interval, and the member gives the partition up
// only when the answer is there.
type commits struct {
	sub     *Subscription
	session *group.Session

	partitions atomic.Int32 // that may hand in
	opens      atomic.Int64 // when the next request may begin, since began
	began      time.Time
	wake       chan struct{}

	mu   sync.Mutex
	news []news // waiting; at most one of each partition
}

// news is what is done of a partition.
type news struct {
	partition int
	offset    int64
	metadata  string
	last      bool                // the partition drains
	answer    chan<- commitAnswer // has room
}

func newCommits(s *Subscription, session *group.Session) *commits {
	return &commits{sub: s, session: session, began: time.Now(), wake: make(chan struct{}, 1)}
}

// wait is how long no request may begin. Until then a partition keeps its news,
// which only grows.
func (c *commits) wait(now time.Time) time.Duration {
	return time.Duration(c.opens.Load()) - now.Sub(c.began)
}

// hand gives news to the worker, which answers it.
func (c *commits) hand(n news) {
	c.mu.Lock()
	c.news = append(c.news, n)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run answers what is handed in until ctx ends. By then every partition has its
// last answer.
func (c *commits) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		if c.waiting() < int(c.partitions.Load()) {
			_ = retry.Pause(ctx, gather) // nobody waits for an answer when ctx ends
		}
		c.opens.Store(int64(time.Since(c.began) + commitEvery))
		c.store(c.take())
	}
}

func (c *commits) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.news)
}

func (c *commits) take() []news {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.news
	c.news = nil
	return batch
}

// store sends one request and answers everyone in it.
func (c *commits) store(batch []news) {
	if len(batch) == 0 {
		return
	}
	limit := commitTimeout
	if slices.ContainsFunc(batch, func(n news) bool { return n.last }) {
		limit = lastCommitTimeout
	}
	// Not the handler's context: what is done is stored also when it has ended.
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	offsets, err := c.sealed(ctx, batch)
	if err != nil {
		for _, n := range batch {
			n.answer <- commitAnswer{n.offset, err}
		}
		return
	}
	failed := c.session.CommitEach(ctx, offsets)
	if len(failed) < len(batch) {
		failpoint.Hit("B5")
	}
	for _, n := range batch {
		n.answer <- commitAnswer{n.offset, failed[n.partition]}
	}
}

// sealed adds the seals. While there is no key it waits: an offset without a seal
// could not be told from somebody else's.
func (c *commits) sealed(ctx context.Context, batch []news) (map[int]group.Offset, error) {
	var keys seal.Keys
	if c.sub.cfg.Keys != nil {
		for keys = c.sub.cfg.Keys(); len(keys) == 0; keys = c.sub.cfg.Keys() {
			if retry.Pause(ctx, checkEvery) != nil {
				return nil, errNoKey
			}
		}
	}
	offsets := make(map[int]group.Offset, len(batch))
	for _, n := range batch {
		o := group.Offset{Offset: n.offset, Metadata: n.metadata}
		if len(keys) > 0 {
			at := c.sub.place(n.partition, n.offset)
			o.Metadata, o.Short = keys.Seal(at, n.metadata), keys.Seal(at, "")
		}
		offsets[n.partition] = o
	}
	return offsets, nil
}
