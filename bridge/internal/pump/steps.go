package pump

import (
	"context"
	"net/http"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/journal"
)

// noteVersion keeps what the journal says of the event beside its id and type.
func (p *partition) noteVersion(it *item, version func() string) {
	if p.sub.cfg.Journal == nil {
		return
	}
	it.version = version()
	it.published = it.record.Time
	it.key = string(it.record.Key)
}

// step is what all steps of an event have in common.
func (p *partition) step(it *item, kind journal.Kind, now time.Time) journal.Step {
	topic, partition, offset := p.origin(it)
	return journal.Step{
		At: now, Kind: kind, Subscription: p.sub.cfg.Name, Topic: topic, Partition: partition, Offset: offset,
		Event: it.event, Type: it.kind, Key: it.key, Version: it.version, Published: it.published, Attempt: it.attempts, Redrive: it.letter != nil,
	}
}

func (p *partition) noteFiltered(it *item, now time.Time) {
	if p.sub.cfg.Journal != nil {
		p.sub.cfg.Journal.Add(p.step(it, journal.Filtered, now))
	}
}

func (p *partition) noteReceived(it *item) {
	if p.sub.cfg.Journal == nil {
		return
	}
	if it.state == malformed { // it has none of its own
		it.key, it.published = string(it.record.Key), it.record.Time
	}
	p.sub.cfg.Journal.Add(p.step(it, journal.Received, it.received))
}

// noteUndecoded is called once for a head that waits for its schema, and why.
func (p *partition) noteUndecoded(it *item, now time.Time) {
	if p.sub.cfg.Journal == nil {
		return
	}
	s := p.step(it, journal.Undecoded, now)
	s.Error = it.err.Error()
	p.sub.cfg.Journal.Add(s)
}

// noteAttempts is called when the post is settled: an event that is tried again has
// a time for that.
func (p *partition) noteAttempts(r *post, now time.Time) {
	if p.sub.cfg.Journal == nil {
		return
	}
	for i, it := range r.items {
		res := r.of(i)
		s := p.step(it, journal.Attempted, now)
		s.Outcome, s.Status, s.Took = string(res.Outcome), res.Status, r.took
		if res.Err != nil {
			s.Error = res.Err.Error()
		}
		if it.state == waiting {
			s.Next = it.due
		}
		if len(r.items) > 1 {
			s.Batch = len(r.items)
		}
		p.sub.cfg.Journal.Add(s)
	}
}

func (p *partition) noteLetter(it *item, now time.Time) {
	if p.sub.cfg.Journal == nil {
		return
	}
	s := p.step(it, journal.DeadLetter, now)
	s.Outcome, s.Status = it.reason, it.status
	if it.err != nil {
		s.Error = it.err.Error()
	}
	p.sub.cfg.Journal.Add(s)
}

// TryPost posts once to the sink of the subscription, for a person who looks at the
// answer. It has nothing to do with deliveries.
func (s *Subscription) TryPost(ctx context.Context, header http.Header, body []byte) (status int, answered http.Header, text []byte, err error) {
	return s.sink.Try(ctx, header, body)
}
