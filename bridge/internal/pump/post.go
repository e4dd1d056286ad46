package pump

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/webhook"
)

// post is what a worker carries: one event or, in the modes batch and auto, several. No two of
// them have a key in common, as all are heads; so an event waits until the batch
// with the one before it is answered. It is the loop's, then a worker's, then the
// loop's again, which uses it for another post.
type post struct {
	items   []*item // in offset order when it is posted
	key     string  // of one of them: the breaker knows the post by it
	round   int64   // of the breaker, under whose limit it was begun; 0 for none
	expired []*item // not posted: their time was over
	held    bool    // not posted: a 429 came first
	result  deliver.Result
	took    time.Duration // for the answer
}

// attempt is a worker: it makes one post after the other until it is given none, or
// work is closed.
// It looks for a hold once more, as late as it can: one from another partition
// may have come after the loop chose the events.
func (p *partition) attempt(posts context.Context) {
	sink := p.sub.sink.Worker(posts)
	defer sink.Close()
	metrics := p.sub.metrics.of(p.sub.cfg.Name)
	var batch deliver.Batch
	for post := range p.work {
		if post == nil {
			return
		}
		start := time.Now()
		post.result, post.held = deliver.Result{}, p.sub.pace.held(start) != nil
		if post.held || !post.expire(start) {
			p.results <- post
			continue
		}
		msg := p.message(post, &batch)
		span := p.span(post, &msg)
		if post.result = p.sub.cfg.Fault.act(posts, p.sub.cfg.Name); post.result.Outcome == "" {
			post.result = sink.Attempt(msg)
		}
		span.End(post.result.Status, string(post.result.Outcome), post.result.Err)
		post.took = time.Since(start)
		metrics.count(post, post.took, span.ID())
		for i := range post.items {
			if res := post.of(i); res.Outcome == deliver.Throttled {
				p.holdPosts(res, start) // all of them have the answer's Retry-After
				break
			}
		}
		p.results <- post
	}
}

// expire leaves out events that must not be posted any more. It reports whether any are left.
func (r *post) expire(now time.Time) bool {
	r.items = slices.DeleteFunc(r.items, func(it *item) bool {
		if it.expired(now) {
			r.expired = append(r.expired, it)
			return true
		}
		return false
	})
	return len(r.items) > 0
}

// message is what is sent for a post. A batch has the offsets of its events, in
// their order, and the highest number of attempts of any: 1 says that all are new.
func (p *partition) message(r *post, batch *deliver.Batch) deliver.Post {
	asBatch := p.sub.cfg.Mode == Batched || len(r.items) > 1
	if asBatch {
		slices.SortFunc(r.items, func(a, b *item) int { return cmp.Compare(a.offset, b.offset) })
	}
	it := r.items[0]
	topic, _, offset := p.origin(it)
	msg := deliver.Post{
		WebhookID: it.webhookID, ContentType: it.contentType, Header: it.header, Body: it.body, TraceParent: it.trace, TraceState: it.traceState,
		Attempt: it.attempts + 1, Topic: topic, Partition: p.originName(it), Offset: offset,
	}
	if !asBatch {
		return msg
	}
	batch.Reset()
	offsets := make([]byte, 0, 16*len(r.items))
	for i, it := range r.items {
		batch.Add(it.body)
		if i > 0 {
			offsets = append(offsets, ',')
		}
		_, _, offset := p.origin(it)
		offsets = strconv.AppendInt(offsets, offset, 10)
		msg.Attempt = max(msg.Attempt, it.attempts+1)
	}
	msg.Header, msg.Offsets = nil, string(offsets)
	msg.Body, msg.Batch, msg.ContentType, msg.TraceParent, msg.TraceState = nil, batch, deliver.BatchContentType, "", "" // each event has its own trace
	if p.sub.sink.Signs() {
		var ids strings.Builder
		for _, it := range r.items {
			ids.WriteString(it.webhookID)
		}
		msg.WebhookID = webhook.ID("batch", ids.String())
	}
	return msg
}

// of is the result of the i-th event.
func (r *post) of(i int) deliver.Result {
	if r.result.Each != nil {
		return r.result.Each[i]
	}
	return r.result
}

// shared reports whether a failure is that of several events together, so that
// nobody knows which of them is to blame.
func (r *post) shared() bool {
	return r.result.Each == nil && len(r.items) > 1 && r.result.Outcome != deliver.Accepted && r.result.Outcome != deliver.Throttled
}

// any reports whether an event has one of the outcomes.
func (r *post) any(outcomes ...deliver.Outcome) bool {
	for i := range r.items {
		if slices.Contains(outcomes, r.of(i).Outcome) {
			return true
		}
	}
	return false
}

// tellApart books a failure that several events share. It counts as an attempt of
// each, and blames none: they are posted again in batches of half the size, among
// themselves, until those that fail fail alone. After a refusal that is at once,
// otherwise together after one pause.
func (p *partition) tellApart(r *post, f sinkFault, now time.Time) {
	half := (len(r.items) + 1) / 2
	most := 0
	for _, it := range r.items {
		most = max(most, it.attempts)
	}
	due := now.Add(p.sub.cfg.Backoff.Wait(most, r.result.RetryAfter))
	if r.result.Outcome == deliver.Rejected {
		due = now
		p.sub.log.Warn("batch rejected, its events are told apart", append(p.attrs(r.items[0]), "events", len(r.items), "err", r.result.Err)...)
	} else {
		p.reportFailure(r.items[0], f, now)
	}
	if r.result.Outcome == deliver.Gone {
		p.sub.gate.Gone(r.result.Err)
	}
	for _, it := range r.items {
		switch {
		case now.Sub(it.first) >= p.sub.cfg.For:
			it.most = 1 // its next failure is its own, and the last
		case !unreachable(r.result.Err):
			it.most = half
		}
		if it.skip != nil && !it.notice {
			p.setAside(it, deadletter.Skipped, now)
			continue
		}
		p.window.retry(it, due)
	}
}
