package pump

import (
	"bytes"
	"errors"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
)

// committer hands what a tracker says is done to the member's commits, one at a
// time. It is owned by the partition's loop.
type committer struct {
	commits   *commits
	sub       *Subscription
	partition int
	tracker   *track.Tracker
	key       []byte // of the seal of the last commit; nil when there is none, or it is not the first key's

	busy    bool // a commit is under way; its answer will be on answers
	answers chan commitAnswer
	offset  int64 // stored last; -1 for nothing yet

	refusals retry.Backoff
	due      time.Time // no commit before; after a failure
}

type commitAnswer struct {
	offset int64
	err    error
}

func newCommitter(s *Subscription, commits *commits, claimed group.Partition, tracker *track.Tracker, key []byte) *committer {
	return &committer{
		commits: commits, sub: s, partition: claimed.ID, tracker: tracker, key: key, offset: claimed.Offset,
		answers: make(chan commitAnswer, 1), refusals: retry.Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second},
	}
}

// start hands in what is done if there is news, none is under way and the next
// request may begin.
func (c *committer) start(now time.Time) {
	if c.busy || c.wait(now) > 0 {
		return
	}
	c.reseal()
	c.handIn(false)
}

// wait is how long no commit may start.
func (c *committer) wait(now time.Time) time.Duration {
	return max(c.commits.wait(now), c.due.Sub(now))
}

// handIn reports whether there was news.
func (c *committer) handIn(last bool) bool {
	offset, metadata, changed := c.tracker.Commit()
	if !changed || offset < 0 {
		return false
	}
	c.hand(offset, metadata, last)
	return true
}

func (c *committer) hand(offset int64, metadata string, last bool) {
	c.busy = true
	c.commits.hand(news{c.partition, offset, metadata, last, c.answers})
}

// reseal stores the last commit again when another key has become the first, so
// that in a rotation the old one is needed by no partition, not even an idle one.
func (c *committer) reseal() {
	if c.sub.cfg.Keys == nil {
		return
	}
	if keys := c.sub.cfg.Keys(); len(keys) > 0 && !bytes.Equal(keys[0], c.key) {
		c.key = keys[0]
		c.tracker.Recommit()
	}
}

// ended takes the answer of the commit under way. What was refused is handed in
// again, with what is done by then, at growing intervals.
func (c *committer) ended(a commitAnswer) error {
	c.busy = false
	if a.err != nil {
		c.tracker.Recommit()
		c.due = time.Now().Add(c.refusals.Delay())
		return a.err
	}
	c.refusals.Reset()
	c.offset = a.offset
	return nil
}

// pause is how long start has nothing to do by the clock; ok is false when the
// clock does not matter: there is no news, or a commit is under way.
func (c *committer) pause(now time.Time) (d time.Duration, ok bool) {
	if c.busy || !c.tracker.Dirty() {
		return 0, false
	}
	d = c.wait(now)
	return d, d > 0
}

// finish waits for the commit under way and stores what is left, at once.
func (c *committer) finish() error {
	if c.busy {
		if err := c.ended(<-c.answers); errors.Is(err, group.ErrFenced) {
			return err
		}
	}
	failpoint.Hit("B8")
	if !c.handIn(true) {
		return nil
	}
	return c.ended(<-c.answers)
}

// store stores an offset that an operator has accepted, and waits for it.
func (c *committer) store(offset int64) error {
	c.hand(offset, "", true)
	return c.ended(<-c.answers)
}
