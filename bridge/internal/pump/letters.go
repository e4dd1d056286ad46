package pump

import (
	"container/heap"
	"context"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// letterTimeout bounds one write of a dead letter.
const letterTimeout = 15 * time.Second

// letters is the lane of records that become dead letters. It has a worker of
// its own and depends on Kafka alone: a sink that is down neither delays a dead
// letter nor is probed with one.
type letters struct {
	due     schedule
	work    chan *item   // to the worker
	written chan written // from the worker
	staffed bool         // the worker has been started
	busy    bool         // it has one
}

// written is what became of one write; a nil error means that all replicas have it.
type written struct {
	item *item
	err  error
}

func newLetters() *letters {
	return &letters{work: make(chan *item), written: make(chan written, 1)}
}

// add puts a head into the lane, to be written when it is due.
func (l *letters) add(it *item, due time.Time) {
	it.state, it.due = writing, due
	heap.Push(&l.due, it)
}

// next is the letter to write now and the channel to give it to; a nil channel
// when there is none.
func (l *letters) next(now time.Time) (*item, chan<- *item) {
	if l.busy || !l.due.due(now) {
		return nil, nil
	}
	return l.due[0], l.work
}

// started removes what next returned: the worker has it.
func (l *letters) started() {
	heap.Pop(&l.due)
	l.busy = true
}

// nextDue is when next will find something; ok is false when nothing is scheduled.
func (l *letters) nextDue() (at time.Time, ok bool) {
	if l.busy || len(l.due) == 0 {
		return time.Time{}, false
	}
	return l.due[0].due, true
}

// writeLetters is the lane's worker. It ends when the channel is closed.
func (p *partition) writeLetters(ctx context.Context) {
	for it := range p.letters.work {
		p.letters.written <- written{it, p.writeLetter(ctx, it)}
	}
}

func (p *partition) writeLetter(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, letterTimeout)
	defer cancel()
	return deadletter.Write(ctx, p.sub.letters, p.sub.cfg.DeadLetter, it.record, it.again(deadletter.Letter{
		Topic: p.sub.cfg.Topic, Partition: p.id, Offset: it.offset, Group: p.sub.cfg.Group, Subscription: p.sub.cfg.Name, Sink: deliver.Shown(p.sub.cfg.Sink),
		Reason: it.reason, Error: it.err.Error(), Status: it.status, Attempts: it.attempts, First: it.first, Last: it.last,
		SkippedBy: it.wish().By, SkippedReason: it.wish().Reason,
	}))
}

// setAside gives up on an event: it becomes a dead letter.
func (p *partition) setAside(it *item, reason string, now time.Time) {
	if it.notice {
		p.giveUpNotice(it) // what it is about is a dead letter already
		return
	}
	it.reason = reason
	p.letters.add(it, now)
}

// settleLetter holds the offset until the dead letter is stored; only then is
// the record done.
func (p *partition) settleLetter(w written, now time.Time) {
	p.letters.busy = false
	it := w.item
	if w.err != nil {
		it.unwritten++
		it.letterErr = w.err
		if isPowerOfTwo(it.unwritten) {
			p.sub.log.Warn("dead letter not written, offset held, retrying", append(p.attrs(it), "dead_letter_topic", p.sub.cfg.DeadLetter, "err", w.err)...)
		}
		p.letters.add(it, now.Add(p.sub.cfg.Backoff.Wait(it.unwritten, 0)))
		return
	}
	failpoint.Hit("B6")
	p.sub.metrics.deadLetters.WithLabelValues(p.sub.cfg.Name, it.reason).Inc()
	p.sub.log.Error("dead letter written", append(p.attrs(it), "dead_letter_topic", p.sub.cfg.DeadLetter, "reason", it.reason, "err", it.err)...)
	p.noteLetter(it, now)
	if it.reason == deadletter.Skipped {
		p.skipped(it, now)
		return
	}
	p.done(it)
}
