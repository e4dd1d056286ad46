package pump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// maxWait bounds a long poll. A request on the wire cannot be interrupted, so
// it also bounds how long a drain waits for the fetcher.
const maxWait = 500 * time.Millisecond

// chunk is what one fetch brought.
type chunk struct {
	items []*item
	next  int64 // offset after the last one seen, also of those without a record
	end   int64 // the partition's end
}

// errLost says that the next offset is no longer, or not yet, on the topic:
// records were deleted unread, or the topic was recreated. Jumping would skip
// them silently.
var errLost = errors.New("the committed offset is outside the topic: unread records were deleted, or the topic was recreated; reset the group's offsets (kafka-consumer-groups.sh --reset-offsets) to continue")

// fetch brings chunks to p.chunks until ctx ends, beginning at offset. The
// channel is unbuffered: nothing is fetched ahead of what the loop can hold but one chunk.
func (p *partition) fetch(ctx context.Context, offset int64) {
	if offset < 0 {
		offset = kafkago.FirstOffset
	}
	again := retry.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for ctx.Err() == nil {
		c, err := p.fetchOnce(ctx, offset)
		if err != nil {
			p.fetchFailed(ctx, err)
			_ = again.Wait(ctx) // the loop looks at ctx
			continue
		}
		again.Reset()
		offset = c.next
		select {
		case p.chunks <- c:
		case <-ctx.Done():
		}
	}
}

func (p *partition) fetchFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	select {
	case p.faults <- err:
	case <-ctx.Done():
	}
	if !errors.Is(err, errLost) {
		kafka.Forget(p.sub.client) // a leader may have moved
	}
}

func (p *partition) fetchOnce(ctx context.Context, offset int64) (chunk, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := p.sub.client.Fetch(ctx, &kafkago.FetchRequest{
		Topic: p.sub.cfg.Topic, Partition: p.id, Offset: offset, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: maxWait,
	})
	if err == nil {
		err = resp.Error
	}
	if errors.Is(err, kafkago.OffsetOutOfRange) {
		return chunk{}, errLost
	}
	if err != nil {
		return chunk{}, fmt.Errorf("fetch %s/%d at %d: %w", p.sub.cfg.Topic, p.id, offset, err)
	}
	c := chunk{next: offset, end: resp.HighWatermark}
	if offset < 0 {
		c.next = resp.LogStartOffset
	}
	c.next = max(c.next, marker(resp.Records))
	for {
		rec, err := resp.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return chunk{}, fmt.Errorf("read %s/%d at %d: %w", p.sub.cfg.Topic, p.id, c.next, err)
		}
		if rec.Offset < c.next {
			kafka.Discard(rec) // a batch may begin before the offset asked for
			continue
		}
		it, err := p.prepare(rec)
		if err != nil {
			return chunk{}, fmt.Errorf("read %s/%d at %d: %w", p.sub.cfg.Topic, p.id, rec.Offset, err)
		}
		c.items = append(c.items, it)
		c.next = rec.Offset + 1
	}
}

// marker is the offset after an answer's transaction markers when it holds nothing else,
// else 0. Reading records passes over markers silently: an answer of markers
// alone would be asked for without a pause and without end.
func marker(r protocol.RecordReader) (next int64) {
	stream, ok := r.(*protocol.RecordStream)
	if !ok {
		if control, ok := r.(*protocol.ControlBatch); ok {
			return control.Offset() + 1
		}
		return 0
	}
	for _, part := range stream.Records {
		control, ok := part.(*protocol.ControlBatch)
		if !ok {
			return 0
		}
		next = control.Offset() + 1
	}
	return next
}

// prepare does in the fetcher what needs no order: it parses and filters, and
// makes the body to post.
func (p *partition) prepare(rec *protocol.Record) (*item, error) {
	read, err := kafka.ReadRecord(rec)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("B1")
	it := &item{offset: rec.Offset, record: read}
	it.size = len(it.record.Key) + len(it.record.Value) + 256
	e, err := event.FromRecord(it.record)
	if err != nil {
		it.state, it.err = malformed, err
		return it, nil //nolint:nilerr // no event is an outcome, not a failure to read
	}
	it.event, it.kind = e.ID(), e.Type()
	if !filter.Match(p.sub.cfg.Filters, e) {
		it.state = unwanted
		return it, nil
	}
	it.trace, _ = event.Attribute(e, "traceparent")
	it.traceState, _ = event.Attribute(e, "tracestate")
	it.body = it.record.Value
	if !event.IsStructured(it.record) {
		if it.body, err = event.Append(nil, e); err != nil {
			it.state, it.err = malformed, err
		}
	}
	return it, nil
}
