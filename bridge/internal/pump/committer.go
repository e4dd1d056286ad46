package pump

import (
	"bytes"
	"context"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
)

// commitEvery bounds how often a partition commits. A restart posts again what
// finished since the last commit.
const commitEvery = 10 * time.Millisecond

// committer stores what a tracker says is done, one commit at a time. It is
// owned by the partition's loop, but for the goroutine of the commit under way.
type committer struct {
	session   *group.Session
	sub       *Subscription
	partition int
	tracker   *track.Tracker
	key       []byte // of the seal of the last commit; nil when there is none, or it is not the first key's

	busy    bool // a commit is under way; its answer will be on answers
	began   time.Time
	answers chan commitAnswer
	offset  int64 // stored last; -1 for nothing yet
}

type commitAnswer struct {
	offset int64
	err    error
}

func newCommitter(s *Subscription, session *group.Session, claimed group.Partition, tracker *track.Tracker, key []byte) *committer {
	return &committer{session: session, sub: s, partition: claimed.ID, tracker: tracker, key: key, offset: claimed.Offset, answers: make(chan commitAnswer, 1)}
}

// start begins a commit if there is news, none is under way and the last one
// is long enough ago.
func (c *committer) start(ctx context.Context, now time.Time) {
	if c.busy || now.Sub(c.began) < commitEvery {
		return
	}
	c.reseal()
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
	o, err := c.sealed(ctx, group.Offset{Offset: offset, Metadata: metadata})
	if err != nil {
		return err
	}
	return c.session.Commit(ctx, map[int]group.Offset{c.partition: o})
}

// sealed adds the seal. While there is no key it waits: an offset without a seal
// could not be told from somebody else's.
func (c *committer) sealed(ctx context.Context, o group.Offset) (group.Offset, error) {
	if c.sub.cfg.Keys == nil {
		return o, nil
	}
	for {
		if keys := c.sub.cfg.Keys(); len(keys) > 0 {
			at := c.sub.place(c.partition, o.Offset)
			return group.Offset{Offset: o.Offset, Metadata: keys.Seal(at, o.Metadata), Short: keys.Seal(at, "")}, nil
		}
		if retry.Pause(ctx, checkEvery) != nil {
			return o, errNoKey
		}
	}
}
