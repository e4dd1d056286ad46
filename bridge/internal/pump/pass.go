package pump

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// What a partition's loop asks and tells a pass over dead letters. A nil *Redrive
// is no pass: every method then lets the loop do what it does for events.

// begin sets where the partition's part of the pass begins and ends.
func (r *Redrive) begin(p *partition) {
	if r == nil {
		p.limit = math.MaxInt64
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p.tracker.Skip(r.firsts[p.id]) // retention has deleted what was below
	p.next, p.limit = p.tracker.Next(), r.ends[p.id]
}

// take looks at a record that was fetched. It returns false when there is nothing
// to post: the record is no letter of the subscription, or not selected. Otherwise
// the item is the record as it was before it became a letter.
func (r *Redrive) take(p *partition, it *item) bool {
	if r == nil {
		return true
	}
	l, ok := deadletter.FromRecord(p.id, fetch.Record{Offset: it.offset, Record: it.record})
	switch {
	case !ok || l.Letter.Subscription != p.sub.cfg.Name:
		it.state = foreign
	case r.Select == nil || !r.Select(l):
		it.state = kept
	case r.Ignore != nil:
		it.state, it.event, it.kind = ignored, l.ID, l.Type
	default:
		it.letter, it.record = &l.Letter, deadletter.Original(it.record)
		return true
	}
	it.record, it.size = event.Record{}, itemCost
	return false
}

// admit settles an item that the tracker has just received and that is not to be
// posted; it returns false for any other.
//
// A letter of another subscription counts as done or as open, whichever makes the
// map shorter: nobody looks it up.
func (r *Redrive) admit(p *partition, it *item) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.partitions[p.id]
	defer func() { r.partitions[p.id] = state }()
	switch it.state {
	case kept:
		state.kept++
		state.keeps = true
		p.tracker.Keep(it.offset)
	case foreign:
		if state.keeps {
			p.tracker.Keep(it.offset)
		} else {
			p.tracker.Done(it.offset)
		}
	case unwanted:
		state.keeps = false
		r.count(p, &r.progress.Filtered, "filtered")
		p.tracker.Done(it.offset)
	case ignored:
		state.keeps = false
		r.count(p, &r.progress.Ignored, "ignored")
		p.sub.log.Warn("dead letter ignored by an operator", append(p.attrs(it), "by", r.Ignore.By, "reason", r.Ignore.Reason)...)
		p.tracker.Done(it.offset)
	default:
		state.keeps = false
		return false
	}
	return true
}

func (r *Redrive) count(p *partition, n *int64, outcome string) {
	*n++
	p.sub.metrics.redriven.WithLabelValues(p.sub.cfg.Name, outcome).Inc()
}

// finished counts an item that is done: its post was accepted, or its new letter
// is stored. Nothing says so in Kafka yet.
func (r *Redrive) finished(p *partition, it *item) {
	if r == nil {
		return
	}
	p.unmarked++
	r.mu.Lock()
	defer r.mu.Unlock()
	if it.reason == "" {
		failpoint.Hit("D1")
		r.count(p, &r.progress.Delivered, "delivered")
		return
	}
	failpoint.Hit("D2")
	r.count(p, &r.progress.Failed, "deadletter")
}

// turn looks at the partition in each turn of its loop: it notes how far it is, and
// ends the pass when every partition is through, or cannot go on.
func (r *Redrive) turn(p *partition, paused *control.Pause) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.partitions[p.id]
	state.inFlight, state.left = int64(p.window.items), max(0, p.limit-p.next)+int64(len(p.pending))
	r.partitions[p.id] = state
	if paused != nil && r.posts() {
		r.stop(refusedPaused(paused.Reason))
	}
	full := len(p.pending) > 0 && p.window.items == 0 && p.tracker.Full()
	if full {
		r.full = fmt.Sprintf("the map of finished letters is full at %d/%d: deal with the oldest open letter, %d/%d, and those after it first",
			p.id, p.pending[0].offset, p.id, p.tracker.Blocking())
	}
	if full || (p.next >= p.limit && len(p.pending) == 0 && p.window.items == 0) {
		r.over[p.id] = true
	}
	if len(r.over) == len(r.ends) {
		r.stop(errThrough)
	}
}

// answered notes that the sink is well enough to accept or to refuse.
func (r *Redrive) answered() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing, r.progress.Problem = time.Time{}, ""
}

// unanswered gives the pass up when the sink has taken nothing for too long: the
// letters stay as they are, and the operator gets to know why.
func (r *Redrive) unanswered(err error, now time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Problem = err.Error()
	if r.failing.IsZero() {
		r.failing = now
	}
	if now.Sub(r.failing) >= r.patience {
		r.stop(&RefusedError{fmt.Sprintf("the sink has taken nothing for %v: %v", r.patience, err)})
	}
}

// fault notes a failed fetch, and gives up when it cannot succeed.
func (r *Redrive) fault(err error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Problem = err.Error()
	var tooLarge *fetch.TooLargeError
	switch {
	case errors.Is(err, errLost):
		r.stop(&RefusedError{"letters were deleted from the topic meanwhile; ask again"})
	case errors.As(err, &tooLarge):
		r.stop(&RefusedError{err.Error()})
	}
}

func (r *Redrive) note(problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Problem = problem
}

// unmarked notes that the last commit has failed.
func (r *Redrive) unmarked(err error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = err
}

// Progress is how far the pass is.
func (r *Redrive) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress
	for _, s := range r.partitions {
		p.Open += s.kept
		p.InHand += s.inFlight
		p.Unread += s.left
	}
	return p
}

// again makes l the letter of an event that was a letter before.
func (it *item) again(l deadletter.Letter) deadletter.Letter {
	if it.letter == nil {
		return l
	}
	l.Topic, l.Partition, l.Offset, l.Group = it.letter.Topic, it.letter.Partition, it.letter.Offset, it.letter.Group
	l.First, l.Attempts, l.Redrives = it.letter.First, it.letter.Attempts+it.attempts, it.letter.Redrives+1
	return l
}

// origin is where the event of an item stood first. The sink is told that, also
// when a dead letter is delivered.
func (p *partition) origin(it *item) (topic string, partition int, offset int64) {
	if it.letter == nil {
		return p.sub.cfg.Topic, p.id, it.offset
	}
	return it.letter.Topic, it.letter.Partition, it.letter.Offset
}

func (p *partition) originName(it *item) string {
	if it.letter == nil {
		return p.name
	}
	return strconv.Itoa(it.letter.Partition)
}

// mayPost bounds what is posted and not marked: after a crash no more letters than
// may be in flight are posted again.
func (r *Redrive) mayPost(p *partition) bool {
	return r == nil || p.inFlight+p.unmarked+p.marking < p.concurrency
}

// turnOf is when the rate of the pass allows a post.
func (r *Redrive) turnOf(p *partition, now time.Time, ask func(*turn, *pace, time.Time) time.Time) time.Time {
	if r == nil {
		return time.Time{}
	}
	return ask(&p.slower, r.pace, now)
}

// handedIn counts what the commit that has just begun marks. When there was
// nothing to commit everything is marked.
func (r *Redrive) handedIn(p *partition) {
	switch {
	case r == nil:
	case p.committer.busy:
		p.marking, p.unmarked = p.marking+p.unmarked, 0
	case !p.tracker.Dirty():
		p.marking, p.unmarked = 0, 0
	}
}

// committed takes the answer of a commit. What a failed one held is in the next.
func (r *Redrive) committed(p *partition, err error) {
	if r != nil && err == nil {
		p.marking = 0
	}
}
