package pump

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// Bounds of what a partition holds in memory.
const (
	maxItems = 8192
	maxBytes = 8 << 20 // shared by the partitions of a subscription
)

const (
	commitEvery = 10 * time.Millisecond // at most; a restart posts again what came since
	downKeys    = 3                     // keys that fail with no success between, until the sink counts as down
	checkEvery  = 250 * time.Millisecond
)

// partition is the loop of one partition in one generation. Its fields are owned
// by the goroutine of run, but for the channels and status.
type partition struct {
	sub     *Subscription
	session *group.Session
	id      int
	name    string // id in decimal
	tracker *track.Tracker
	room    int // bytes that may be in queues

	chunks  chan chunk  // from the fetcher
	faults  chan error  // from the fetcher
	work    chan *item  // to the workers
	results chan result // from the workers
	stored  chan error  // from the commit under way
	pending []*item     // received, waiting for room in the window; rest of a chunk
	queues  map[string]*queue
	ready   []*item // heads that may be tried now
	waiting waiting // heads that failed and are due later
	flying  int     // attempts under way
	items   int     // in queues
	bytes   int
	next    int64 // offset after the last chunk
	end     int64

	committing bool
	committed  int64
	lastCommit time.Time

	failing   map[*queue]struct{} // keys whose last attempt failed, since the last success
	probe     *item               // the one attempt under way while the sink is down
	probes    int                 // that failed in a row
	nextProbe time.Time
	lastFault string
	held      int64     // lowest offset in flight when status was last published
	heldSince time.Time // since when it was that one

	status statusBox
}

// result is what came of one attempt.
type result struct {
	item *item
	deliver.Result
	letterErr error // of writing a dead letter
	letter    bool  // a dead letter was tried
}

func newPartition(s *Subscription, session *group.Session, claimed group.Partition) *partition {
	p := &partition{
		sub: s, session: session, id: claimed.ID, name: strconv.Itoa(claimed.ID),
		tracker: track.New(claimed.Offset, claimed.Metadata),
		room:    max(256<<10, maxBytes/max(1, len(session.Partitions))),
		chunks:  make(chan chunk), faults: make(chan error), work: make(chan *item), results: make(chan result, s.cfg.Concurrency), stored: make(chan error, 1),
		queues: map[string]*queue{}, failing: map[*queue]struct{}{}, committed: claimed.Offset, end: -1, next: claimed.Offset,
	}
	if why := p.tracker.Ignored(); why != "" {
		s.log.Warn("the map of finished offsets in the last commit was ignored; events may be posted again: "+why, "partition", p.id)
	}
	return p
}

// run delivers until ctx ends, then lets attempts in hand finish and commits.
// Three contexts: ctx ends intake and new attempts; posts ends attempts in hand,
// when the drain's time is over or the partition is another's; and the fetcher
// ends with ctx.
func (p *partition) run(ctx context.Context) {
	posts, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var wg sync.WaitGroup
	wg.Go(func() { p.fetch(ctx, p.tracker.Next()) })
	concurrency := p.sub.cfg.Concurrency
	if p.sub.cfg.Order == ByPartition {
		concurrency = 1
	}
	for range concurrency {
		wg.Go(func() { p.attempt(ctx, posts) })
	}
	p.loop(ctx, concurrency)
	p.drain(posts, abandon)
	close(p.work)
	wg.Wait()
}

// loop is the whole life of a partition. Each turn takes in one thing that
// happened and then starts what may be started; see the package comment for
// why the order of effects is safe.
func (p *partition) loop(ctx context.Context, concurrency int) {
	timer := time.NewTimer(checkEvery)
	defer timer.Stop()
	for ctx.Err() == nil {
		shut, changed := p.sub.gate.get()
		now := time.Now()
		p.admit(now)
		p.commit(ctx, now)
		p.publish(now, shut)

		chunks := p.chunks
		if len(p.pending) > 0 {
			chunks = nil // the window is full: leave the next chunk with the fetcher
		}
		next, work := p.choose(now, shut, concurrency)
		timer.Reset(p.sleep(now))
		select {
		case <-ctx.Done():
		case c := <-chunks:
			p.pending, p.next, p.end = c.items, c.next, c.end
		case err := <-p.faults:
			p.fault(err)
		case work <- next:
			p.started(next)
		case r := <-p.results:
			p.settle(r, time.Now())
			p.settleMore()
		case err := <-p.stored:
			p.commitDone(err)
		case <-changed:
		case <-timer.C:
		}
	}
}

// settleMore takes what else has finished, so that a turn of the loop is not
// paid for each of many results.
func (p *partition) settleMore() {
	for range len(p.results) {
		p.settle(<-p.results, time.Now())
	}
}

// admit moves fetched records into the window, as far as there is room.
func (p *partition) admit(now time.Time) {
	for len(p.pending) > 0 {
		if p.items >= maxItems || (p.items > 0 && p.bytes >= p.room) || p.tracker.Full() {
			return
		}
		it := p.pending[0]
		p.pending[0] = nil
		p.pending = p.pending[1:]
		if !p.tracker.Received(it.offset) {
			continue // finished before the restart
		}
		if it.unwanted {
			p.tracker.Done(it.offset)
			continue
		}
		it.received = now
		if it.malformed != nil {
			p.setAside(it, deadletter.Malformed, it.malformed.Error(), now)
		}
		p.enqueue(it)
	}
	p.tracker.Skip(p.next) // offsets without records count as done
}

func (p *partition) enqueue(it *item) {
	key := string(it.record.Key)
	switch {
	case p.sub.cfg.Order == ByPartition:
		key = ""
	case p.sub.cfg.Order == None || it.record.Key == nil:
		key = "\x00" + strconv.FormatInt(it.offset, 10) // a key of its own
	}
	q := p.queues[key]
	if q == nil {
		q = &queue{key: key}
		p.queues[key] = q
	}
	it.queue = q
	q.items = append(q.items, it)
	p.items++
	p.bytes += it.size
	if len(q.items) == 1 {
		p.ready = append(p.ready, it)
	}
}

// choose is the item to try next and the channel to give it to; a nil channel
// when nothing may start.
func (p *partition) choose(now time.Time, shut string, concurrency int) (*item, chan<- *item) {
	if shut != "" || p.flying >= concurrency || !p.session.Confirmed() {
		return nil, nil
	}
	for it := p.waiting.dueBy(now); it != nil; it = p.waiting.dueBy(now) {
		p.ready = append(p.ready, it)
	}
	if len(p.ready) == 0 {
		return nil, nil
	}
	// While the sink is down there is one probe at a time, and none before the
	// pause is over that the last failure asked for.
	if p.down() && (p.probe != nil || p.nextProbe.After(now)) {
		return nil, nil
	}
	return p.ready[0], p.work
}

func (p *partition) started(it *item) {
	p.ready[0] = nil
	p.ready = p.ready[1:]
	p.flying++
	if p.down() {
		p.probe = it
	}
}

// down says that the sink, not an event, is at fault: several keys failed and none got through.
func (p *partition) down() bool { return len(p.failing) >= downKeys }

// sleep is how long nothing can happen by the clock alone.
func (p *partition) sleep(now time.Time) time.Duration {
	d := checkEvery
	if len(p.waiting) > 0 {
		d = min(d, p.waiting[0].due.Sub(now))
	}
	// What finished since the last commit may be waiting for its turn. Once
	// that has passed, commit has found nothing or is under way.
	if turn := p.lastCommit.Add(commitEvery); !p.committing && turn.After(now) {
		d = min(d, turn.Sub(now))
	}
	if p.down() && p.nextProbe.After(now) {
		d = min(d, p.nextProbe.Sub(now))
	}
	return max(d, time.Millisecond)
}

// attempt is a worker: it tries one item after the other until work is closed.
// One that waits for its turn under the rate limit gives up with intake: after a
// stop no post begins.
func (p *partition) attempt(intake, ctx context.Context) {
	for it := range p.work {
		if it.letter != "" {
			p.results <- result{item: it, letter: true, letterErr: p.writeLetter(ctx, it)}
			continue
		}
		if p.sub.limit != nil {
			if err := p.sub.limit.Wait(intake); err != nil {
				it.unposted = true
				p.results <- result{item: it}
				continue
			}
		}
		start := time.Now()
		res := p.sub.sink.Attempt(ctx, deliver.Post{
			ContentType: event.HTTPContentType, Body: it.body, TraceParent: it.trace, TraceState: it.traceState,
			Attempt: it.attempts + 1, Topic: p.sub.cfg.Topic, Partition: p.name, Offset: it.offset,
		})
		p.sub.metrics.attempted(p.sub.cfg.Name, res.Outcome, time.Since(start))
		p.results <- result{item: it, Result: res}
	}
}

func (p *partition) writeLetter(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return deadletter.Write(ctx, p.sub.letters, p.sub.cfg.DeadLetter, it.record, deadletter.Letter{
		Topic: p.sub.cfg.Topic, Partition: p.id, Offset: it.offset, Group: p.sub.cfg.Group, Subscription: p.sub.cfg.Name, Sink: p.sub.cfg.Sink,
		Reason: it.letter, Error: it.failure, Status: it.status, Attempts: it.attempts, First: it.first, Last: it.last,
	})
}

// settle decides what an attempt's result means for the item and its key.
func (p *partition) settle(r result, now time.Time) {
	it := r.item
	p.flying--
	probed := p.probe == it
	if probed {
		p.probe = nil
	}
	if it.unposted {
		return // its offset stays in flight; the next generation posts it
	}
	if r.letter {
		p.settleLetter(it, r.letterErr, now)
		return
	}
	it.attempts++
	it.status = r.Status
	if r.Outcome == deliver.Accepted {
		failpoint.Hit("B3")
		p.recovered(now)
		p.sub.log.Debug("delivered", "event_id", it.event, "event_type", it.kind, "partition", p.id, "offset", it.offset, "attempt", it.attempts)
		p.done(it)
		return
	}
	p.failed(it, r, probed, now)
}

func (p *partition) settleLetter(it *item, err error, now time.Time) {
	if err != nil {
		it.failure = err.Error()
		p.say(it, now, "the dead letter cannot be written; its offset is held until it can: "+err.Error())
		p.retry(it, p.sub.cfg.Backoff.Wait(10, 0), now)
		return
	}
	failpoint.Hit("B6")
	p.sub.metrics.deadLetters.WithLabelValues(p.sub.cfg.Name, it.letter).Inc()
	p.sub.log.Error("dead letter written to "+p.sub.cfg.DeadLetter+": "+it.failure, "event_id", it.event, "event_type", it.kind,
		"topic", p.sub.cfg.Topic, "partition", p.id, "offset", it.offset, "attempt", it.attempts, "reason", it.letter)
	p.done(it)
}

// failed chooses between another attempt, a dead letter, and waiting for ever.
func (p *partition) failed(it *item, r result, probed bool, now time.Time) {
	it.failure, it.last = r.Err.Error(), now
	if it.first.IsZero() {
		it.first = now
	}
	if r.Outcome == deliver.Rejected {
		p.recovered(now) // the sink is well enough to refuse
		if !p.sub.cfg.Block {
			p.setAside(it, deadletter.Rejected, it.failure, now)
			p.retry(it, 0, now)
			return
		}
		p.say(it, now, "the sink refuses an event and this subscription never skips: its key waits: "+it.failure)
		p.retry(it, p.sub.cfg.Backoff.Wait(it.attempts, r.RetryAfter), now)
		return
	}
	wasDown := p.down()
	p.failing[it.queue] = struct{}{}
	// Posts that were in hand when the sink went down are no probes: counted as
	// such, one blip would put the first probe off by the longest pause.
	if probed || (!wasDown && p.down()) {
		p.probes++
		p.nextProbe = now.Add(p.sub.cfg.Backoff.Wait(p.probes, r.RetryAfter))
	}
	if r.Outcome == deliver.Retry && !p.down() && !unreachable(r.Err) {
		it.counted++
	}
	if r.Outcome == deliver.Gone {
		p.sub.Pause(it.failure)
	}
	if p.exhausted(it, r.Outcome, now) {
		p.setAside(it, deadletter.Exhausted, it.failure, now)
		p.retry(it, 0, now)
		return
	}
	p.say(it, now, "delivery failed, trying again: "+it.failure)
	p.retry(it, p.sub.cfg.Backoff.Wait(it.attempts, r.RetryAfter), now)
}

// exhausted: attempts count only against an event whose sink is up and rightly
// addressed; time counts against all.
func (p *partition) exhausted(it *item, outcome deliver.Outcome, now time.Time) bool {
	if p.sub.cfg.Block || outcome == deliver.Gone {
		return false
	}
	if now.Sub(it.first) >= p.sub.cfg.For {
		return true
	}
	return outcome == deliver.Retry && !p.down() && it.counted >= p.sub.cfg.Attempts
}

// unreachable says that no connection came about: nothing was sent, so the
// event cannot be to blame.
func unreachable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &dns) || (errors.As(err, &op) && op.Op == "dial")
}

func (p *partition) setAside(it *item, reason, failure string, now time.Time) {
	it.letter, it.failure = reason, failure
	if it.first.IsZero() {
		it.first = now
	}
	it.last = now
}

func (p *partition) retry(it *item, wait time.Duration, now time.Time) {
	it.due = now.Add(wait)
	heap.Push(&p.waiting, it)
}

// recovered: the sink answers again. Everything that waited because it was down may go.
func (p *partition) recovered(now time.Time) {
	if len(p.failing) == 0 {
		return
	}
	if p.down() {
		p.sub.log.Info("the sink answers again", "partition", p.id)
		for _, it := range p.waiting {
			it.due = now
		}
		heap.Init(&p.waiting)
	}
	clear(p.failing)
	p.probes, p.lastFault = 0, ""
}

// say logs a failure: the first of an item, and then as its attempts double.
func (p *partition) say(it *item, now time.Time, what string) {
	if p.down() && p.lastFault != "" && it.attempts > 1 {
		return // the sink's failure was said; saying it per event helps nobody
	}
	p.lastFault = what
	if n := it.attempts; n&(n-1) == 0 {
		p.sub.log.Warn(what, "event_id", it.event, "event_type", it.kind, "topic", p.sub.cfg.Topic, "partition", p.id, "offset", it.offset, "attempt", it.attempts,
			"for", now.Sub(it.first).Round(time.Millisecond).String())
	}
}

// done finishes an item: its offset, its place in the window, and the next of its key.
func (p *partition) done(it *item) {
	p.tracker.Done(it.offset)
	p.items--
	p.bytes -= it.size
	q := it.queue
	q.items[0] = nil
	q.items = q.items[1:]
	delete(p.failing, q)
	if len(q.items) == 0 {
		delete(p.queues, q.key)
		return
	}
	p.ready = append(p.ready, q.items[0])
}

// fault takes note of a fetch that failed.
func (p *partition) fault(err error) {
	if errors.Is(err, errLost) {
		p.status.block("offset_out_of_range")
	}
	if text := err.Error(); text != p.lastFault {
		p.lastFault = text
		p.sub.log.Warn(text, "topic", p.sub.cfg.Topic, "partition", p.id)
	}
}

// commit stores what is done, one commit at a time and not more often than commitEvery.
func (p *partition) commit(ctx context.Context, now time.Time) {
	if p.committing || now.Sub(p.lastCommit) < commitEvery {
		return
	}
	offset, metadata, changed := p.tracker.Commit()
	if !changed || offset < 0 {
		return
	}
	p.committing, p.lastCommit = true, now
	go func() { // waited for: drain takes its answer from stored
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err := p.session.Commit(ctx, map[int]group.Offset{p.id: {Offset: offset, Metadata: metadata}})
		if err == nil {
			failpoint.Hit("B5")
			p.status.committed(offset)
		}
		p.stored <- err
	}()
}

func (p *partition) commitDone(err error) {
	p.committing = false
	if err != nil {
		p.tracker.Recommit()
		p.sub.log.Warn("commit failed: "+err.Error(), "topic", p.sub.cfg.Topic, "partition", p.id)
	}
}

// drain lets attempts in hand finish, within Drain and as long as the partition
// is this member's, and commits what finished. Nothing new starts.
func (p *partition) drain(posts context.Context, abandon context.CancelFunc) {
	limit := time.NewTimer(p.sub.cfg.Drain)
	defer limit.Stop()
	lost, over := p.session.Lost(), limit.C
	for p.flying > 0 {
		select {
		case r := <-p.results:
			p.settle(r, time.Now())
		case err := <-p.stored:
			p.commitDone(err)
		case <-over:
			p.sub.log.Warn(fmt.Sprintf("%d posts did not finish in time; they will be made again", p.flying), "partition", p.id)
			over = nil
			abandon()
		case <-lost:
			lost = nil
			abandon() // another member posts them now
		}
	}
	if p.committing {
		p.commitDone(<-p.stored)
	}
	failpoint.Hit("B8")
	offset, metadata, changed := p.tracker.Commit()
	if !changed || offset < 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(posts), 5*time.Second)
	defer cancel()
	if err := p.session.Commit(ctx, map[int]group.Offset{p.id: {Offset: offset, Metadata: metadata}}); err != nil {
		p.sub.log.Warn("the last commit failed; what finished since the one before will be posted again: "+err.Error(), "partition", p.id)
	}
}
