package pump

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
)

const (
	// checkEvery bounds a turn of the loop while there is something to do: by then it
	// looks at its membership and its status again.
	checkEvery = 250 * time.Millisecond
	// idleCheck does so while there is nothing: only the key of the seals may change.
	idleCheck = 5 * time.Second
	// workerIdle is how long a worker, and its connection to the sink, is kept that
	// had nothing to do. It may be twice that.
	workerIdle = 10 * time.Second
)

// errTooLong is about what would be posted: no sink takes it, however often.
var errTooLong = fmt.Errorf("the event is longer than %d bytes in the form in which it would be posted", event.MaxBytes)

// partition is the loop of one partition for as long as this member has it. Its fields are owned
// by the goroutine of run, but for the channels and status.
type partition struct {
	sub         *Subscription
	session     *group.Session
	feed        *fetch.Feed
	id          int
	name        string // id in decimal
	concurrency int    // posts in flight

	tracker   *track.Tracker
	window    *window
	schemas   schemas
	letters   *letters
	committer *committer

	stored   group.Partition // what the group had for the partition
	unsealed error           // why that is not the bridge's own commit; nil when it is
	started  chan struct{}   // closed when delivery begins
	over     chan struct{}   // closed when run ends
	accepts  chan chan error // to hold
	skips    chan *skip      // to hold and loop

	slices   chan slice // from the fetcher
	faults   chan error // from the fetcher
	work     chan *post // to the workers
	results  chan *post // from the workers
	spare    []*post    // to be used again
	pending  []*item    // fetched, waiting for room in the window; rest of a slice
	workers  int        // started; each posts one item at a time
	inFlight int        // posts under way
	busiest  int        // most posts under way at once since the last look
	lookAt   time.Time  // when to dismiss the workers that were not needed
	round    int64      // of the breaker: recoveries that are known here
	turn     turn       // under the rate of the subscription
	slower   turn       // under that of a pass over dead letters
	unmarked int        // finished in a pass, and in no commit yet
	marking  int        // finished in a pass, and in a commit without an answer
	next     int64      // offset after the last slice
	limit    int64      // where a pass over dead letters ends
	end      int64      // of the partition; -1 when not known yet
	fetchErr error      // of the last fetch, if it failed

	outline event.Outline // of the record that the fetcher prepares
	kind    string        // the fetcher's: type of the last event

	status statusBox
}

func newPartition(s *Subscription, session *group.Session, feed *fetch.Feed, commits *commits, claimed group.Partition) *partition {
	metadata, key, wrong := s.unseal(claimed)
	tracker := track.New(claimed.Offset, metadata)
	p := &partition{
		sub: s, session: session, feed: feed, id: claimed.ID, name: strconv.Itoa(claimed.ID), concurrency: s.cfg.Concurrency,
		tracker:   tracker,
		window:    newWindow(s.cfg.Order),
		letters:   newLetters(),
		committer: newCommitter(s, commits, claimed, tracker, key),
		stored:    claimed, unsealed: wrong,
		started: make(chan struct{}), over: make(chan struct{}), accepts: make(chan chan error), skips: make(chan *skip),
		slices: make(chan slice, 1), faults: make(chan error), work: make(chan *post, s.cfg.Concurrency), results: make(chan *post, s.cfg.Concurrency),
		end: -1, next: claimed.Offset, round: s.breaker.rounds.Load(),
	}
	if s.cfg.Order == ByPartition {
		p.concurrency = 1
	}
	if wrong != nil {
		s.metrics.unsealed.WithLabelValues(s.cfg.Name).Inc()
		s.log.Error("ALARM: stored offset is not sealed by the bridge, its map is ignored", "topic", s.cfg.Topic, "group", s.cfg.Group,
			"partition", p.id, "offset", claimed.Offset, "waits_for_operator", s.cfg.Block, "err", wrong, "command", "bridge offsets accept --subscription "+s.cfg.Name)
	}
	if why := tracker.Ignored(); why != "" {
		s.log.Warn("commit metadata ignored, finished events may be posted again", "partition", p.id, "reason", why)
	}
	s.pass.begin(p)
	return p
}

// run delivers until ctx ends, then lets posts and dead letters in flight finish
// and commits. Two contexts: ctx ends intake, new posts and the fetcher; posts
// ends what is in flight, when the drain's time is over or the partition is
// another member's.
func (p *partition) run(ctx context.Context) {
	defer close(p.over)
	if p.unsealed != nil && p.sub.cfg.Block && !p.hold(ctx) {
		return
	}
	close(p.started)
	p.sub.budget.join()
	defer p.sub.budget.leave()
	p.sub.breaker.join(p.concurrency)
	defer p.sub.breaker.leave(p.id, p.concurrency)
	posts, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var wg sync.WaitGroup
	wg.Go(func() { p.fetch(ctx, p.tracker.Next()) })
	p.loop(ctx, func(worker func(context.Context)) { wg.Go(func() { worker(posts) }) })
	failpoint.Hit("B7")
	p.turn.giveBack()
	p.slower.giveBack()
	p.drain(posts, abandon)
	close(p.work)
	close(p.letters.work)
	wg.Wait()
}

// loop is the whole life of a partition. Each turn takes in one thing that
// happened and then starts what may be started; see the package comment for
// why the order of effects is safe. hire starts a worker.
func (p *partition) loop(ctx context.Context, hire func(worker func(context.Context))) {
	alarm := newAlarm()
	defer alarm.Stop()
	for ctx.Err() == nil {
		pause, changed := p.sub.gate.Get()
		paused := pause != nil
		now := time.Now()
		p.admit(now)
		p.sub.pass.turn(p, pause)
		p.lookUp(now)
		p.startCommit(now)
		p.publish(now, paused)
		p.dismiss(now)
		if round := p.sub.breaker.rounds.Load(); round != p.round {
			p.round = round
			p.window.wake(now)
		}

		slices := p.slices
		if len(p.pending) > 0 {
			slices = nil // the window is full: leave the next slice with the fetcher
		}
		var letter *item
		var letterWork chan<- *item // nil when none may start
		if !paused && p.session.Confirmed() {
			p.startPosts(now, hire)
			letter, letterWork = p.letters.next(now)
			if letterWork != nil && !p.letters.staffed {
				p.letters.staffed = true
				hire(p.writeLetters)
			}
		}
		alarm.within(now, p.sleep(now, paused))
		select {
		case <-ctx.Done():
		case s := <-slices:
			p.pending, p.next, p.end, p.fetchErr = s.items, s.next, s.end, nil
		case err := <-p.faults:
			p.fetchFault(err)
		case letterWork <- letter:
			p.letters.started()
		case r := <-p.results:
			p.settleAll(r, time.Now())
		case w := <-p.letters.written:
			p.settleLetter(w, time.Now())
		case a := <-p.committer.answers:
			p.commitEnded(a)
		case ask := <-p.skips:
			p.skip(ask, time.Now(), paused)
		case <-changed:
		case <-p.schemaNews(): // lookUp is next
		case <-alarm.C:
			alarm.rang()
		}
	}
}

// settleAll settles r and what else has finished, so that a turn of the loop is not
// paid for each of many results.
func (p *partition) settleAll(r *post, now time.Time) {
	p.settle(r, now)
	for range len(p.results) {
		p.settle(<-p.results, now)
	}
}

// alarm wakes the loop. It is not set anew while it is early enough: each turn looks
// at what is due by itself.
type alarm struct {
	*time.Timer
	at time.Time // zero when it has rung
}

func newAlarm() *alarm { return &alarm{time.NewTimer(checkEvery), time.Now().Add(checkEvery)} }

func (a *alarm) within(now time.Time, d time.Duration) {
	if at := now.Add(d); a.at.IsZero() || at.Before(a.at) {
		a.at = at
		a.Reset(d)
	}
}

func (a *alarm) rang() { a.at = time.Time{} }

// admit moves fetched records into the window, as far as there is room.
func (p *partition) admit(now time.Time) {
	for len(p.pending) > 0 {
		if p.window.full(p.sub.budget.room()) || p.tracker.Full() {
			return
		}
		it := p.pending[0]
		p.pending[0] = nil
		p.pending = p.pending[1:]
		if !p.tracker.Received(it.offset) {
			continue // finished before the restart
		}
		if p.sub.pass.admit(p, it) {
			continue
		}
		if it.state == unwanted {
			p.noteFiltered(it, now)
			p.tracker.Done(it.offset)
			continue
		}
		if len(it.body) > p.sub.cfg.mostBytes() { // a record may be smaller than its event
			it.state, it.err = malformed, errTooLong
		}
		it.received = now
		head := p.window.add(it)
		p.noteReceived(it)
		p.advance(head)
	}
	p.tracker.Skip(p.next) // offsets without records count as done
}

// advance starts the way of a record that became the head of its key; nil is none.
func (p *partition) advance(head *item) {
	switch {
	case head == nil:
	case head.state == malformed:
		now := time.Now()
		head.fail(head.err, now)
		p.setAside(head, deadletter.Malformed, now)
	case head.state == undecoded:
		p.awaitSchema(head, time.Now())
	default:
		p.window.push(head)
	}
}

// startPosts gives to workers all that may be posted now. There is room for as many
// posts as may be in flight, and a worker for each, so none of them waits.
func (p *partition) startPosts(now time.Time, hire func(worker func(context.Context))) {
	for r := p.nextPost(now); r != nil; r = p.nextPost(now) {
		p.begin(r)
		if p.workers < p.inFlight {
			p.workers++
			hire(p.attempt)
		}
		p.work <- r
	}
}

// nextPost is what to post next, nil when no post may start. A sink that is down is
// probed with one event.
func (p *partition) nextPost(now time.Time) *post {
	if p.inFlight >= min(p.concurrency, p.sub.budget.posts(p.sub.postCost())) {
		return nil
	}
	size, bytes := p.sub.batch()
	if at, ok := p.sub.breaker.probeAt(); ok && !at.After(now) {
		size = 1
		p.window.hasten(now) // a probe does not wait for the back-off of its event
	} else if p.sub.breaker.holds() {
		return nil
	}
	if p.window.next(now) == nil || !p.sub.pass.mayPost(p) || later(p.turn.take(p.sub.pace, now), p.sub.pass.turnOf(p, now, (*turn).take)).After(now) {
		return nil
	}
	heads := p.window.together(size, bytes)
	round, ok := p.sub.breaker.begin(p.at(heads[0].queue.key), now)
	if !ok {
		return nil
	}
	if len(p.spare) == 0 {
		p.spare = append(p.spare, &post{})
	}
	last := len(p.spare) - 1
	r := p.spare[last]
	p.spare = p.spare[:last]
	r.items, r.expired, r.key, r.round = append(r.items[:0], heads...), r.expired[:0], heads[0].queue.key, round
	return r
}

// at is a key's place, by which the breaker knows it.
func (p *partition) at(key string) place { return place{p.id, key} }

// begin notes that a worker is about to have what nextPost has returned.
func (p *partition) begin(r *post) {
	p.window.take(len(r.items))
	p.turn.use()
	p.slower.use()
	p.inFlight++
	p.busiest = max(p.busiest, p.inFlight)
}

// dismiss ends the workers that were not needed for some time. Each of them waits
// for work, or is about to, so none is waited for.
func (p *partition) dismiss(now time.Time) {
	if p.workers == 0 || p.lookAt.After(now) {
		return
	}
	if !p.lookAt.IsZero() {
		for ; p.workers > p.busiest; p.workers-- {
			p.work <- nil
		}
	}
	p.busiest, p.lookAt = p.inFlight, now.Add(p.sub.workerIdle)
	if p.workers == 0 {
		p.lookAt = time.Time{}
	}
}

// reuse keeps a post whose events are settled for another.
func (p *partition) reuse(r *post) {
	clear(r.items[:cap(r.items)])
	clear(r.expired[:cap(r.expired)])
	p.spare = append(p.spare, r)
}

// sleep is how long nothing can happen by the clock alone.
func (p *partition) sleep(now time.Time, paused bool) time.Duration {
	d := p.longest(now)
	if wait, ok := p.committer.pause(now); ok {
		d = min(d, wait)
	}
	if paused {
		return max(d, time.Millisecond)
	}
	if at, ok := p.window.nextDue(now); ok && p.inFlight < p.concurrency && p.sub.pass.mayPost(p) {
		probe, alone := p.sub.breaker.probeAt()
		if alone {
			at = probe
		}
		at = later(at, later(p.turn.earliest(p.sub.pace, now), p.sub.pass.turnOf(p, now, (*turn).earliest)))
		if alone || !p.sub.breaker.holds() {
			d = min(d, at.Sub(now))
		}
	}
	if at, ok := p.letters.nextDue(); ok {
		d = min(d, at.Sub(now))
	}
	return max(d, time.Millisecond)
}

// longest is how long the loop may sleep at most.
func (p *partition) longest(now time.Time) time.Duration {
	if p.window.items > 0 || len(p.pending) > 0 {
		return checkEvery
	}
	d := idleCheck
	if p.status.stale {
		d = publishEvery
	}
	if p.workers > 0 {
		d = min(d, p.lookAt.Sub(now))
	}
	return d
}

// done finishes an item: its offset, its place in the window, and the next of its key.
func (p *partition) done(it *item) {
	p.sub.pass.finished(p, it)
	p.tracker.Done(it.offset)
	p.sub.breaker.forget(p.at(it.queue.key))
	p.advance(p.window.finish(it))
	it.answerSkip()
}

// fetchFault takes note of a fetch that failed, and logs each fault once.
func (p *partition) fetchFault(err error) {
	if p.fetchErr == nil || p.fetchErr.Error() != err.Error() {
		p.sub.log.Warn("fetch failed, retrying", "topic", p.sub.cfg.Topic, "partition", p.id, "err", err)
	}
	p.fetchErr = err
	p.sub.pass.fault(err)
}

// startCommit hands in what is done. A pass over dead letters counts what that is.
func (p *partition) startCommit(now time.Time) {
	if p.committer.busy {
		return
	}
	p.committer.start(now)
	p.sub.pass.handedIn(p)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (p *partition) commitEnded(a commitAnswer) {
	p.sub.pass.committed(p, a.err)
	if err := p.committer.ended(a); err != nil {
		p.sub.log.Warn("commit failed, retrying", "topic", p.sub.cfg.Topic, "partition", p.id, "err", err)
	}
}

// drain lets posts and dead letters in flight finish, within Drain and as long
// as the partition is this member's, and commits what finished. Nothing new starts.
func (p *partition) drain(posts context.Context, abandon context.CancelFunc) {
	limit := time.NewTimer(p.sub.cfg.Drain)
	defer limit.Stop()
	lost, over := p.session.Lost(), limit.C
	for p.inFlight > 0 || p.letters.busy {
		select {
		case r := <-p.results:
			p.settle(r, time.Now())
		case w := <-p.letters.written:
			p.settleLetter(w, time.Now())
		case a := <-p.committer.answers:
			p.commitEnded(a)
		case <-over:
			p.sub.log.Warn("drain timed out, posts in flight will be repeated", "partition", p.id, "in_flight", p.inFlight)
			over = nil
			abandon()
		case <-lost:
			lost = nil
			abandon() // another member posts them now
		}
	}
	if err := p.committer.finish(); err != nil {
		p.sub.log.Warn("last commit failed, what finished since the one before will be posted again", "partition", p.id, "err", err)
		p.sub.pass.unmarked(err)
	}
}
