package deadletter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// Stored is a dead letter as stored on its topic.
type Stored struct {
	Partition int
	Offset    int64
	Record    event.Record
	Letter    Letter
	ID, Type  string // of the event; empty when the record is none
}

// Place is partition and offset in the form in which operators name a letter.
func (s Stored) Place() string {
	return strconv.Itoa(s.Partition) + "/" + strconv.FormatInt(s.Offset, 10)
}

// FromRecord returns the letter of a record; ok is false when it is none.
func FromRecord(partition int, rec fetch.Record) (s Stored, ok bool) {
	l, ok := Read(rec.Headers)
	if !ok {
		return Stored{}, false
	}
	s = Stored{Partition: partition, Offset: rec.Offset, Record: rec.Record, Letter: l}
	e, _, err := event.FromRecord(rec.Record)
	if err != nil && l.Reason != Malformed { // records of every kind are events to the subscription
		e, err = event.Wrap(l.Topic, l.Partition, l.Offset, Original(rec.Record))
	}
	if err == nil {
		s.ID, s.Type = e.ID(), e.Type()
	}
	return s, true
}

// Range is a part of one partition.
type Range struct {
	Topic     string
	Partition int
	From      int64
	To        int64 // not included; Follow for no end
}

// Follow is the end of a range that has none.
const Follow = int64(-1)

// Sizes that bound the memory of a scan.
const (
	scanAnswer = 1 << 20
	scanRecord = 64 << 20
)

// Scan calls f for each record of a range, in order. It returns the offset after
// the last one that f has seen; an error of f ends it.
func Scan(ctx context.Context, client *kafkago.Client, r Range, f func(fetch.Record) error) (next int64, err error) {
	next = r.From
	again := retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}
	for failed := 0; r.To == Follow || next < r.To; {
		if ctx.Err() != nil {
			return next, context.Cause(ctx)
		}
		answer, err := ask(ctx, client, r, next)
		if err != nil {
			// A pooled connection may have died, or the leader moved.
			kafka.Forget(client)
			if failed++; (failed > 3 && r.To != Follow) || errors.Is(err, kafkago.OffsetOutOfRange) || again.Wait(ctx) != nil {
				return next, fmt.Errorf("read %s/%d at offset %d: %w", r.Topic, r.Partition, next, kafka.Plain(err))
			}
			continue
		}
		failed = 0
		again.Reset()
		if next, err = each(fetch.Read(answer.Batches, next, scanRecord), r.To, f); err != nil {
			return next, err
		}
		if r.To != Follow && next >= answer.End {
			return next, nil // shorter than the caller thinks
		}
	}
	return next, nil
}

func ask(ctx context.Context, client *kafkago.Client, r Range, from int64) (fetch.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return fetch.Fetch(ctx, client, fetch.Request{Topic: r.Topic, Partition: r.Partition, Offset: from, MaxBytes: scanAnswer, MaxWait: 500 * time.Millisecond})
}

func each(records *fetch.Records, to int64, f func(fetch.Record) error) (next int64, err error) {
	defer records.Pause()
	for {
		next = records.Next()
		rec, err := records.Read()
		switch {
		case errors.Is(err, io.EOF):
			return clamp(records.Next(), to), nil
		case err != nil:
			return next, err
		case to != Follow && rec.Offset >= to:
			return to, nil
		}
		if err := f(rec); err != nil {
			return rec.Offset + 1, err
		}
	}
}

func clamp(next, to int64) int64 {
	if to == Follow {
		return next
	}
	return min(next, to)
}
