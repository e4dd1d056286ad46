// Package pgstore keeps tasks, their outbox rows and idempotency keys in
// PostgreSQL, for any number of replicas of the Task API.
//
// The changes that wait are one transaction. It locks the rows of their tasks
// first, in the order of their ids; then draws the versions and the ids of the
// outbox rows; then writes tasks, outbox rows and keys, and commits. So
//
//   - the versions of a task have neither gaps nor repeats, whichever replicas
//     change it, and the ids of its outbox rows are in the same order,
//   - an outbox row that is visible has every earlier row of its task visible
//     beside it. Rows of other tasks appear in any order: what is to be published
//     is what table unpublished holds, never what is above some id,
//   - two requests under one key cannot both commit: the second meets the key,
//     rolls everything back, and finds the first answer.
//
// A batch never waits for a task that another transaction has locked: it leaves
// that task's changes to a transaction of their own. So a replica that was stopped
// in a transaction delays the changes of its tasks only, and those until the
// server ends its session.
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Config is the settings of a store.
type Config struct {
	Database postgres.Config
	// OutboxLimit is how many events may wait for Kafka. Beyond it changes are
	// refused with a *task.BusyError. What other replicas add counts within a second.
	// 0: 1,000,000.
	OutboxLimit int64
	// Retention is how long the row of a published event is kept. 0: 1 h.
	Retention time.Duration
	// Signer signs each event in its transaction; nil for none.
	Signer record.Signer
	// DataSchema is the dataschema of each event; "" for none.
	DataSchema string
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	Log *slog.Logger

	writers, batch int // 0: as measured; for the measurement
}

const (
	writers     = 2   // transactions at a time for changes that wait for nobody: one writes while the disk has the other
	maxBatch    = 512 // changes in one transaction
	waiters     = 4   // transactions at a time that wait for the lock of a task
	readers     = 4
	connections = writers + waiters + 2 // and what marks and purges
)

// Store is a task.Store and an outbox.Source.
type Store struct {
	cfg    Config
	reads  *pgxpool.Pool
	writes *pgxpool.Pool

	jobs    chan *job
	stopped chan struct{} // closed when Run returns: nothing is answered after that
	wake    chan struct{} // for the relay of this process
	notify  chan struct{} // for that of another one
	leading atomic.Bool   // the relay of this process publishes
	writing atomic.Int64  // start of the current transaction in Unix nanoseconds; 0: there is none
	contact atomic.Pointer[contact]

	lanes   sync.WaitGroup // of tasks that are locked
	slots   chan struct{}  // one for each lane that may have a transaction
	mu      sync.Mutex     // guards the fields below
	blocked map[string][]*job
	last    int64 // time of the last change in microseconds
	pending pending
	settled settled
}

var (
	_ task.Store    = (*Store)(nil)
	_ outbox.Source = (*Store)(nil)
)

// Open connects, brings the schema up to date and prepares everything; nothing is
// answered before Run runs. A database that is not up yet is an error that
// postgres.Unavailable accepts.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{
		cfg: withDefaults(cfg), stopped: make(chan struct{}), wake: make(chan struct{}, 1), notify: make(chan struct{}, 1),
		jobs: make(chan *job, 256), slots: make(chan struct{}, waiters), blocked: map[string][]*job{},
	}
	s.contact.Store(&contact{at: time.Now()})
	conn, err := postgres.Connect(ctx, s.cfg.Database)
	if err != nil {
		return nil, err
	}
	err = errors.Join(postgres.Migrate(ctx, conn, schema, migrations), conn.Close(ctx))
	if err != nil {
		return nil, err
	}
	if s.writes, err = postgres.Open(ctx, s.cfg.Database, int32(connections-writers+s.cfg.writers)); err != nil {
		return nil, err
	}
	if s.reads, err = postgres.Open(ctx, s.cfg.Database, readers); err != nil {
		s.writes.Close()
		return nil, err
	}
	return s, nil
}

func withDefaults(cfg Config) Config {
	if cfg.OutboxLimit == 0 {
		cfg.OutboxLimit = 1_000_000
	}
	if cfg.Retention == 0 {
		cfg.Retention = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.writers == 0 {
		cfg.writers = writers
	}
	if cfg.batch == 0 {
		cfg.batch = maxBatch
	}
	return cfg
}

// Close ends the sessions. Run and Lead must have returned.
func (s *Store) Close() error {
	s.reads.Close()
	s.writes.Close()
	return nil
}

// Wake delivers after a commit that wrote outbox rows, here or, while this store
// leads, in another replica.
func (s *Store) Wake() <-chan struct{} { return s.wake }

func (s *Store) wakeRelay() {
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up is already pending
	}
}

// stuck is how long a transaction may take before the writer counts as hung. The
// server and the client end one earlier.
const stuck = 60 * time.Second

// Check reports whether changes make progress. A database that is down is no
// reason to restart this process; Ready reports it.
func (s *Store) Check() error {
	if since := s.writing.Load(); since != 0 && time.Since(time.Unix(0, since)) > stuck {
		return fmt.Errorf("a write has taken more than %v", stuck)
	}
	select {
	case <-s.stopped:
		return errors.New("the writer has stopped")
	default:
		return nil
	}
}

// contact is what was last heard from the server.
type contact struct {
	at  time.Time
	err error // nil: it answered
}

// silence is how long the server may say nothing before the store is not ready.
const silence = 5 * time.Second

// Ready reports whether the server answers. Lead asks it every second.
func (s *Store) Ready() error {
	switch c := s.contact.Load(); {
	case c.err != nil:
		return fmt.Errorf("PostgreSQL: %w", c.err)
	case time.Since(c.at) > silence:
		return fmt.Errorf("PostgreSQL has not answered for %v", time.Since(c.at).Round(time.Second))
	}
	return s.Check()
}

func (s *Store) heard(err error) { s.contact.Store(&contact{time.Now(), err}) }
