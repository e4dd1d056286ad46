package deadletter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

// Fetcher reads a topic; *kafka.Client is one.
type Fetcher interface {
	Fetch(ctx context.Context, req *kafkago.FetchRequest) (*kafkago.FetchResponse, error)
}

// Stored is a dead letter as stored on its topic.
type Stored struct {
	Offset int64
	Record event.Record
	Letter Letter
}

// Scan calls f for each dead letter of partition 0 of topic, oldest first, up
// to the current end. With follow it goes on with new ones and returns only with
// an error, the cause of ctx's end above all.
func Scan(ctx context.Context, client Fetcher, topic string, follow bool, f func(Stored) error) error {
	offset := kafkago.FirstOffset
	for {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		resp, err := client.Fetch(attempt, &kafkago.FetchRequest{Topic: topic, Offset: offset, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 500 * time.Millisecond})
		cancel()
		if err == nil {
			err = resp.Error
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read topic %s: %w", topic, kafka.Plain(err))
		}
		if offset < 0 {
			offset = resp.LogStartOffset
		}
		if offset, err = each(resp.Records, offset, f); err != nil {
			return err
		}
		if !follow && offset >= resp.HighWatermark {
			return nil
		}
	}
}

func each(records kafkago.RecordReader, offset int64, f func(Stored) error) (next int64, err error) {
	for {
		rec, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, fmt.Errorf("read offset %d: %w", offset, err)
		}
		read, err := kafka.ReadRecord(rec)
		if err != nil {
			return offset, fmt.Errorf("read offset %d: %w", rec.Offset, err)
		}
		if rec.Offset < offset {
			continue // a batch may begin before the requested offset
		}
		out := Stored{Offset: rec.Offset, Record: read}
		offset = rec.Offset + 1
		letter, ok := Read(out.Record.Headers)
		if !ok {
			continue
		}
		out.Letter = letter
		if err := f(out); err != nil {
			return offset, err
		}
	}
}
