// Package outbox publishes committed events to Kafka.
//
// The store writes an outbox row in the transaction of the change; the relay
// reads the rows that are not published yet, in id order, produces them in
// batches and marks them only after every broker in sync has them. A crash
// between the two publishes a batch a second time: duplicates, identified by
// source and id, but no loss and no other order within a task.
//
// Each partition of the topic has a lane of its own, so that a leader that is
// down delays the events of its partitions only.
package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// Row is one event that waits.
type Row struct {
	ID     int64  // ascending within a task; see Page for other tasks
	TaskID string // the Kafka key
	Event  []byte // structured CloudEvent, made in the change's transaction
}

// Page is what Next has read.
type Page struct {
	Rows []Row
	// Settled: no row up to this id can appear any more. A source whose writers
	// commit at the same time gives a row its id before others can see it, so a row
	// with a lower id may appear later. It is never the later row of a task.
	Settled int64
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Count  int64
	Oldest time.Time // of the first waiting event; zero when nothing waits
}

// Source is the outbox as the relay sees it.
type Source interface {
	// Next returns the unpublished rows with the lowest ids above after, ascending:
	// at most rows of them, stopping early once their events exceed bytes, but always
	// one when there is one. It never skips a row because of what was returned
	// before: with after 0 it begins at the oldest unpublished row again.
	Next(ctx context.Context, after int64, rows, bytes int) (Page, error)
	// Published marks rows as done, durably before it returns. A row may be
	// marked twice.
	Published(ctx context.Context, ids []int64) error
	// Wake delivers after a commit that wrote rows. One delivery may stand for many.
	Wake() <-chan struct{}
	// Backlog reports what waits.
	Backlog(ctx context.Context) (Backlog, error)
}

// Publisher is the Kafka producer.
type Publisher interface {
	// Partitions returns how many partitions a topic has.
	Partitions(ctx context.Context, topic string) (int, error)
	// Partition returns which of n partitions gets the records of a key.
	Partition(key string, n int) int
	// Produce returns nil when all records are durable, in order within their key.
	// After an error any of them may be there too; a *PartialError says which of
	// them are there for certain. It is called for several lanes at once.
	Produce(ctx context.Context, topic string, recs []event.Record) error
}

// Encoder makes the records of events whose data is published in another form.
type Encoder interface {
	Record(e event.Event) (event.Record, error)
}

// PartialError is a batch of which some records are durable and the others
// are not known to be. Without it an outage of one partition would publish the
// records of the others again and again.
type PartialError struct {
	Acked []bool // by position in the batch
	Err   error
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("only part of the batch was acknowledged: %v", e.Err)
}
func (e *PartialError) Unwrap() error { return e.Err }
