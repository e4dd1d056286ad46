package pump

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// commitEvery bounds how often a partition commits. A restart posts again what
// finished since the last commit.
const commitEvery = 10 * time.Millisecond

// committer stores what a tracker says is done, one commit at a time. It is
// owned by the partition's loop, but for the goroutine of the commit under way.
type committer struct {
	session   *group.Session
	partition int
	tracker   *track.Tracker

	busy    bool // a commit is under way; its answer will be on answers
	began   time.Time
	answers chan commitAnswer
	offset  int64 // stored last; -1 for nothing yet
}

type commitAnswer struct {
	offset int64
	err    error
}

func newCommitter(session *group.Session, claimed group.Partition, tracker *track.Tracker) *committer {
	return &committer{session: session, partition: claimed.ID, tracker: tracker, offset: claimed.Offset, answers: make(chan commitAnswer, 1)}
}

// start begins a commit if there is news, none is under way and the last one
// is long enough ago.
func (c *committer) start(ctx context.Context, now time.Time) {
	if c.busy || now.Sub(c.began) < commitEvery {
		return
	}
	offset, metadata, changed := c.tracker.Commit()
	if !changed || offset < 0 {
		return
	}
	c.busy, c.began = true, now
	go func() { // waited for: finish takes its answer
		err := c.store(ctx, offset, metadata, 10*time.Second)
		if err == nil {
			failpoint.Hit("B5")
		}
		c.answers <- commitAnswer{offset, err}
	}()
}

// ended takes the answer of the commit under way.
func (c *committer) ended(a commitAnswer) error {
	c.busy = false
	if a.err != nil {
		c.tracker.Recommit()
		return a.err
	}
	c.offset = a.offset
	return nil
}

// pause is how long start has nothing to do by the clock; ok is false when the
// clock does not matter: start has found nothing, or a commit is under way.
func (c *committer) pause(now time.Time) (d time.Duration, ok bool) {
	d = c.began.Add(commitEvery).Sub(now)
	return d, !c.busy && d > 0
}

// finish waits for the commit under way and stores what is left. ctx need not be alive.
func (c *committer) finish(ctx context.Context) error {
	if c.busy {
		_ = c.ended(<-c.answers) // stored again below
	}
	failpoint.Hit("B8")
	offset, metadata, changed := c.tracker.Commit()
	if !changed || offset < 0 {
		return nil
	}
	return c.store(ctx, offset, metadata, 5*time.Second)
}

func (c *committer) store(ctx context.Context, offset int64, metadata string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return c.session.Commit(ctx, map[int]group.Offset{c.partition: {Offset: offset, Metadata: metadata}})
}
