package pump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/internal/webhook"
)

// maxWait bounds a long poll.
const maxWait = 500 * time.Millisecond

// slice is a run of records that was decoded together.
type slice struct {
	items []*item
	next  int64 // offset after the last one seen, also of those without a record
	end   int64 // the partition's end
}

// errLost says that the next offset is no longer, or not yet, on the topic:
// records were deleted unread, or the topic was recreated. Jumping would skip
// them silently.
var errLost = errors.New("the committed offset is outside the topic: unread records were deleted, or the topic was recreated; reset the group's offsets (kafka-consumer-groups.sh --reset-offsets) to continue")

// itemCost is what a record takes in memory beside its bytes.
const itemCost = 768

// newFeed returns what fetches for all partitions of a session.
func (s *Subscription) newFeed() (*fetch.Feed, error) {
	return fetch.NewFeed(s.client, fetch.FeedConfig{
		Topic: s.cfg.Topic, MaxWait: maxWait, Sizes: func() (int, int) { return s.budget.answer(), s.budget.request() },
		Grant: s.budget.grant, Release: s.budget.release,
	})
}

// fetch brings slices to p.slices until ctx ends, beginning at offset.
func (p *partition) fetch(ctx context.Context, offset int64) {
	again := retry.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	end := int64(-1) // as the loop knows it; -1 after a failure, so that it learns of the next success
	for ctx.Err() == nil && offset < p.limit {
		next, seen, err := p.fetchOnce(ctx, offset, end)
		offset, end = next, seen
		if err == nil {
			again.Reset()
			continue
		}
		if ctx.Err() == nil {
			select {
			case p.faults <- err:
			case <-ctx.Done():
			}
		}
		_ = again.Wait(ctx) // the loop looks at ctx
	}
}

// fetchOnce waits for one answer and passes on its records. It returns the offset
// to go on from, also with an error, and the partition's end.
func (p *partition) fetchOnce(ctx context.Context, offset, end int64) (next, seen int64, err error) {
	answer, err := p.feed.Next(ctx, p.id, offset, end)
	switch {
	case errors.Is(err, kafkago.OffsetOutOfRange):
		return offset, -1, errLost
	case err != nil:
		return offset, -1, fmt.Errorf("fetch %s/%d at offset %d: %w", p.sub.cfg.Topic, p.id, offset, err)
	}
	granted, seen := answer.Granted, answer.End
	records := fetch.Read(answer.Batches, answer.Offset, p.sub.budget.record())
	left, err := p.pass(ctx, records, answer.End)
	records.Pause()
	next = records.Next()
	answer, records = fetch.Answer{}, nil // free before the memory is another's
	p.sub.budget.release(granted)
	if left != nil {
		select {
		case p.slices <- *left:
		case <-ctx.Done():
		}
	}
	if err != nil {
		return next, -1, fmt.Errorf("read %s/%d at offset %d: %w", p.sub.cfg.Topic, p.id, next, err)
	}
	return next, seen, nil
}

// pass decodes an answer slice by slice and gives the slices to the loop, until
// the answer is used up, or the loop has no room and another partition waits for
// memory. left is a slice that the loop has yet to take.
//
// A decompressor is open only while there is a place for it, and none while the
// fetcher waits for the loop.
func (p *partition) pass(ctx context.Context, records *fetch.Records, end int64) (left *slice, err error) {
	budget := p.sub.budget
	decoding := false
	defer func() {
		if decoding {
			budget.decode <- struct{}{}
		}
	}()
	for {
		if !decoding {
			select {
			case <-budget.decode:
				decoding = true
			case <-ctx.Done():
				return nil, nil
			}
		}
		s, err := p.decode(records, budget.slice())
		s.end = end
		select {
		case p.slices <- s:
			runtime.Gosched() // the loop first, then the next slice
			if err != nil {
				return nil, notEOF(err)
			}
			continue
		default:
		}
		if err != nil {
			return &s, notEOF(err)
		}
		records.Pause()
		budget.decode <- struct{}{}
		decoding = false
		select {
		case p.slices <- s:
		case <-budget.short():
			return &s, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// decode reads records until they take limit bytes. With io.EOF the answer is used up.
func (p *partition) decode(records *fetch.Records, limit int) (s slice, err error) {
	size := 0
	for err == nil && size < limit && len(s.items) < maxItems/4 {
		var rec fetch.Record
		if rec, err = records.Read(); err == nil && rec.Offset >= p.limit {
			err = io.EOF
		}
		if err == nil {
			it := p.prepare(rec)
			size += it.size
			s.items = append(s.items, it)
		}
	}
	s.next = min(records.Next(), p.limit)
	return s, err
}

// prepare does in the fetcher what needs no order: it parses and filters, and
// makes the body to post.
func (p *partition) prepare(rec fetch.Record) *item {
	failpoint.Hit("B1")
	it := &item{offset: rec.Offset, record: rec.Record}
	it.size = len(rec.Key) + len(rec.Value) + itemCost
	if !p.sub.pass.take(p, it) || p.outlined(it) {
		return it
	}
	e, mode, err := p.read(it)
	if err != nil {
		it.state, it.err = malformed, err
		p.foreign(it)
		return it
	}
	it.event, it.kind = e.ID(), e.Type()
	p.noteVersion(it, func() string { v, _ := event.Attribute(e, event.VersionOfTask); return v })
	if !p.wants(e, rec.Offset) {
		it.unwanted()
		return it
	}
	if p.sub.sink.Signs() {
		it.webhookID = webhook.ID(e.Source(), e.ID())
	}
	if text, ok := event.Attribute(e, expiryTime); ok {
		it.expires = expires(text)
	}
	it.trace, _ = event.Attribute(e, "traceparent")
	it.traceState, _ = event.Attribute(e, "tracestate")
	var as []byte
	if mode == event.ModeStructured {
		as = rec.Value
	}
	if p.translates(e) {
		decoded, err := p.translate(e)
		switch {
		case err == nil:
			e, as = decoded, nil
		case awaitsSchema(err):
			it.state, it.encoded, it.size = undecoded, &e, it.size+len(e.DataEncoded)
			return it
		default:
			it.state, it.err = malformed, err
			return it
		}
	}
	if err := it.shape(p.sub.cfg.Mode, e, as); err != nil {
		it.state, it.err = malformed, err
	}
	return it
}

// outlined prepares a structured event that is passed on as it came, of which no
// more than its outline has to be read. False: it takes the whole event.
func (p *partition) outlined(it *item) bool {
	o := &p.outline
	if p.sub.cfg.Wrap || p.sub.cfg.Mode == Binary || !o.Read(it.record) {
		return false
	}
	passes, ok := p.sub.filters.matcher.MatchOutline(o)
	if !ok {
		return false
	}
	text := func(name string) string {
		b, _ := o.Attribute(name)
		return string(b)
	}
	if passes || p.sub.cfg.Journal != nil {
		it.event = text("id")
	}
	p.noteVersion(it, func() string { return text(event.VersionOfTask) })
	if kind, _ := o.Attribute("type"); string(kind) != p.kind {
		p.kind = string(kind) // the next event may share it
	}
	it.kind = p.kind
	if !passes {
		it.unwanted()
		return true
	}
	if p.sub.sink.Signs() {
		it.webhookID = webhook.ID(text("source"), it.event)
	}
	if at, ok := o.Attribute(expiryTime); ok {
		it.expires = expires(string(at))
	}
	it.trace, it.traceState = text(event.TraceParent), text(event.TraceState)
	it.contentType, it.body = event.HTTPContentType, it.record.Value
	return true
}

// unwanted gives back what it holds: no filter matches.
func (it *item) unwanted() {
	it.state, it.record, it.size = unwanted, event.Record{}, itemCost
}
