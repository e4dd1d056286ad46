package pump

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/trace"
)

// settle decides what the outcome of a post means for its events, their keys and the sink.
func (p *partition) settle(r *post, now time.Time) {
	p.inFlight--
	probe := p.sub.breaker.ended(p.at(r.key), r.round)
	defer p.reuse(r)
	if r.held {
		for _, it := range r.items {
			p.heldBack(it, now)
		}
		return
	}
	for _, it := range r.expired {
		p.setAsideExpired(it, now)
	}
	if len(r.items) == 0 {
		return
	}
	for i, it := range r.items {
		it.attempts++
		it.status = r.of(i).Status
		if err := r.of(i).Err; err != nil {
			it.fail(err, now)
		}
	}
	defer p.noteAttempts(r, now) // when it is known what follows
	var f sinkFault
	switch {
	case r.any(deliver.Accepted):
		p.sub.pass.answered()
		p.sub.pace.accepted(now)
		p.recovered()
	case r.any(deliver.Rejected):
		p.sub.pass.answered()
		p.recovered() // the sink is well enough to refuse
	case r.any(deliver.Retry, deliver.SinkFault, deliver.Gone):
		p.sub.pass.unanswered(r.items[0].err, now)
		f = p.sinkFailed(r, probe, now)
	}
	if r.shared() {
		p.tellApart(r, f, now)
		return
	}
	for i, it := range r.items {
		switch res := r.of(i); res.Outcome {
		case deliver.Accepted:
			failpoint.Hit("B3")
			if p.sub.log.Enabled(context.Background(), slog.LevelDebug) {
				p.sub.log.Debug("delivered", p.attrs(it)...)
			}
			p.done(it)
		case deliver.Rejected:
			p.rejected(it, res, now)
		case deliver.Throttled:
			p.throttled(it, now)
		default:
			p.failed(it, res, f, now)
			f.reported = !r.any(deliver.Accepted, deliver.Rejected) // a line for each event of a batch would repeat the same fault
		}
	}
}

// sinkFault is what the failure of a whole post says about the sink.
type sinkFault struct {
	probes   int  // failed in a row, if this was one
	wasDown  bool // before
	reported bool
}

// sinkFailed books a post that the sink has neither accepted nor refused any event of.
func (p *partition) sinkFailed(r *post, probe bool, now time.Time) sinkFault {
	f := sinkFault{wasDown: p.sub.breaker.down()}
	if f.probes = p.sub.breaker.failed(p.at(r.key), probe, unreachable(r.result.Err), r.result.Err); f.probes > 0 {
		p.sub.breaker.putOff(now.Add(p.sub.cfg.probePause(f.probes, r.result.RetryAfter)))
	}
	return f
}

// rejected sets aside what the sink refuses, unless the subscription never skips.
func (p *partition) rejected(it *item, r deliver.Result, now time.Time) {
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
func (p *partition) failed(it *item, r deliver.Result, f sinkFault, now time.Time) {
	if r.Outcome == deliver.Retry && !p.sub.breaker.down() && !unreachable(r.Err) {
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
	p.reportFailure(it, f, now)
	p.retry(it, r, now)
}

func (p *partition) retry(it *item, r deliver.Result, now time.Time) {
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
	return outcome == deliver.Retry && !p.sub.breaker.down() && it.counted >= p.sub.cfg.Attempts
}

// unreachable reports whether no connection came about: nothing was sent, so
// the event cannot be to blame.
func unreachable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &dns) || (errors.As(err, &op) && op.Op == "dial")
}

// recovered notes that the sink is at work. If it was down, every partition lets go
// what has waited for it.
func (p *partition) recovered() {
	if !p.sub.breaker.recovered() {
		return
	}
	p.sub.log.Info("sink recovered", "partition", p.id)
}

// probePause is how long a sink that is down is left alone after so many probes.
func (c Config) probePause(probes int, retryAfter time.Duration) time.Duration {
	often := c.Backoff
	often.Max = min(often.Max, probeEvery)
	return max(often.Wait(probes, 0), min(retryAfter, 10*c.Backoff.Max))
}

// reportFailure logs an event's first failure and then its 2nd, 4th, 8th ...
// While the sink is down only probes are reported, in the same way: a line per
// event would repeat the same fault.
func (p *partition) reportFailure(it *item, f sinkFault, now time.Time) {
	if f.reported {
		return
	}
	if !p.sub.breaker.down() {
		if isPowerOfTwo(it.attempts) {
			p.sub.log.Warn("delivery failed, retrying", append(p.attrs(it), "failing_for", it.failingFor(now), "err", it.err)...)
		}
		return
	}
	if !f.wasDown || (f.probes > 0 && isPowerOfTwo(f.probes)) {
		p.sub.log.Warn("sink down, probing", append(p.attrs(it), "probes", f.probes, "err", it.err)...)
	}
}

// attrs identify an event in a log line.
func (p *partition) attrs(it *item) []any {
	attrs := []any{"event_id", it.event, "event_type", it.kind, "topic", p.sub.cfg.Topic, "partition", p.id, "offset", it.offset, "attempt", it.attempts}
	if e, _, err := event.FromRecord(it.record); err == nil && !p.sub.cfg.Wrap { // read again: a line is rare
		if id, ok := event.Attribute(e, event.CorrelationID); ok {
			attrs = append(attrs, "correlation_id", id)
		}
	}
	if id := trace.IDOf(it.trace); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}

func isPowerOfTwo(n int) bool { return n&(n-1) == 0 }
