// Package outbox publishes committed events to Kafka.
//
// The store writes an outbox row in the transaction of the change; the relay
// reads the rows that are not published yet, in id order, produces them in
// batches and marks them only after every broker in sync has them. A crash
// between the two publishes a batch a second time: duplicates, identified by
// source and id, but no loss and no other order within a task.
package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// Row is one event that waits.
type Row struct {
	ID     int64  // ascending in commit order
	TaskID string // the Kafka key
	Event  []byte // structured CloudEvent, made in the change's transaction
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Count  int64
	Oldest time.Time // of the first waiting event; zero when nothing waits
}

// Source is the outbox as the relay sees it.
type Source interface {
	// Next returns the unpublished rows with the lowest ids, ascending: at most
	// rows of them, stopping early once their events exceed bytes, but always one
	// when there is one. It never skips a row because of what was returned before.
	Next(ctx context.Context, rows, bytes int) ([]Row, error)
	// Published marks rows as done, durably before it returns. A row may be
	// marked twice.
	Published(ctx context.Context, ids []int64) error
	// Wake delivers after a commit that wrote rows. One delivery may stand for many.
	Wake() <-chan struct{}
	// Backlog reports what waits.
	Backlog(ctx context.Context) (Backlog, error)
}

// Publisher is the Kafka producer. Nil means that all records are durable, in
// order within their key. After an error any of them may be there too; a
// *PartialError says which of them are there for certain.
type Publisher interface {
	Produce(ctx context.Context, topic string, recs []event.Record) error
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
