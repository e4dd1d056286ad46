package pump

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// attempted is what became of one post.
type attempted struct {
	item *item
	held bool // it was not posted: a 429 came first
	deliver.Result
}

// attempt is a worker: it posts one item after the other until work is closed.
// It looks for a hold once more, as late as it can: one from another partition
// may have come after the loop chose the item.
func (p *partition) attempt(posts context.Context) {
	for it := range p.work {
		start := time.Now()
		if p.sub.pace.held(start) != nil {
			p.results <- attempted{item: it, held: true}
			continue
		}
		res := p.sub.sink.Attempt(posts, deliver.Post{
			WebhookID: it.webhookID, ContentType: event.HTTPContentType, Body: it.body, TraceParent: it.trace, TraceState: it.traceState,
			Attempt: it.attempts + 1, Topic: p.sub.cfg.Topic, Partition: p.name, Offset: it.offset,
		})
		p.sub.metrics.attempted(p.sub.cfg.Name, res.Outcome, time.Since(start))
		if res.Outcome == deliver.Throttled {
			p.holdPosts(res, start)
		}
		p.results <- attempted{item: it, Result: res}
	}
}

// settle decides what the outcome of an attempt means for the event, its key and the sink.
func (p *partition) settle(r attempted, now time.Time) {
	it := r.item
	p.inFlight--
	probe := p.breaker.ended(it.queue.key)
	if r.held {
		p.heldBack(it, now)
		return
	}
	it.attempts++
	it.status = r.Status
	switch r.Outcome {
	case deliver.Accepted:
		failpoint.Hit("B3")
		p.sub.pace.accepted(now)
		p.recovered(now)
		p.sub.log.Debug("delivered", p.attrs(it)...)
		p.done(it)
	case deliver.Rejected:
		p.recovered(now) // the sink is well enough to refuse
		it.fail(r.Err, now)
		p.rejected(it, r, now)
	case deliver.Throttled:
		it.fail(r.Err, now)
		p.throttled(it, now)
	default:
		it.fail(r.Err, now)
		p.failed(it, r, probe, now)
	}
}

// rejected sets aside what the sink refuses, unless the subscription never skips.
func (p *partition) rejected(it *item, r attempted, now time.Time) {
	if it.skip != nil {
		p.setAside(it, deadletter.Skipped, now)
		return
	}
	if !p.sub.cfg.Block {
		p.setAside(it, deadletter.Rejected, now)
		return
	}
	if isPowerOfTwo(it.attempts) {
		p.sub.log.Warn("event rejected, key blocked", append(p.attrs(it), "failing_for", it.failingFor(now), "err", it.err)...)
	}
	p.retry(it, r, now)
}

// failed chooses between another attempt and a dead letter.
func (p *partition) failed(it *item, r attempted, probe bool, now time.Time) {
	wasDown := p.breaker.down()
	probes := p.breaker.failed(it.queue.key, probe, r.Err)
	if probes > 0 {
		p.breaker.putOff(now.Add(p.sub.cfg.Backoff.Wait(probes, r.RetryAfter)))
	}
	if r.Outcome == deliver.Retry && !p.breaker.down() && !unreachable(r.Err) {
		it.counted++
	}
	if r.Outcome == deliver.Gone {
		p.sub.gate.Gone(r.Err)
	}
	if it.skip != nil && !it.notice {
		p.setAside(it, deadletter.Skipped, now)
		return
	}
	if p.exhausted(it, r.Outcome, now) {
		p.setAside(it, deadletter.Exhausted, now)
		return
	}
	p.reportFailure(it, probes, wasDown, now)
	p.retry(it, r, now)
}

func (p *partition) retry(it *item, r attempted, now time.Time) {
	p.window.retry(it, now.Add(p.sub.cfg.Backoff.Wait(it.attempts, r.RetryAfter)))
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
	return outcome == deliver.Retry && !p.breaker.down() && it.counted >= p.sub.cfg.Attempts
}

// unreachable reports whether no connection came about: nothing was sent, so
// the event cannot be to blame.
func unreachable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &dns) || (errors.As(err, &op) && op.Op == "dial")
}

// recovered lets everything go that waited because the sink was down.
func (p *partition) recovered(now time.Time) {
	if !p.breaker.recovered() {
		return
	}
	p.sub.log.Info("sink recovered", "partition", p.id)
	p.window.wake(now)
}

// reportFailure logs an event's first failure and then its 2nd, 4th, 8th ...
// While the sink is down only probes are reported, in the same way: a line per
// event would repeat the same fault.
func (p *partition) reportFailure(it *item, probes int, wasDown bool, now time.Time) {
	if !p.breaker.down() {
		if isPowerOfTwo(it.attempts) {
			p.sub.log.Warn("delivery failed, retrying", append(p.attrs(it), "failing_for", it.failingFor(now), "err", it.err)...)
		}
		return
	}
	if !wasDown || (probes > 0 && isPowerOfTwo(probes)) {
		p.sub.log.Warn("sink down, probing", append(p.attrs(it), "probes", probes, "err", it.err)...)
	}
}

// attrs identify an event in a log line.
func (p *partition) attrs(it *item) []any {
	return []any{"event_id", it.event, "event_type", it.kind, "topic", p.sub.cfg.Topic, "partition", p.id, "offset", it.offset, "attempt", it.attempts}
}

func isPowerOfTwo(n int) bool { return n&(n-1) == 0 }
