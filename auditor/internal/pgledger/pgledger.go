// Package pgledger keeps the auditor's log in PostgreSQL. The lines, the answers
// and the rules are those of package ledger, which keeps it in a file; here any
// number of auditors append at once, and each of them may be killed at any moment,
// since none has anything that is not in the database.
//
// # The order of effects
//
// A batch is one transaction:
//
//	BEGIN
//	lock the head          orders the auditors: the next one reads after this one's commit
//	look up keys, tasks    every statement sees all that was committed before the lock
//	insert, count, COMMIT  entries without gap, the head, the tasks: all or nothing
//	answer
//
// If this process, its connection or the server dies before the COMMIT has reached
// the disk, nothing of the batch is in the log and nobody was answered. If it dies
// after that, the batch is in the log, and the events, which are delivered again,
// are found as duplicates. In between nobody can tell: the batch is answered as an
// error, never with success, and the retry learns which it was. An auditor that is
// stopped while it holds the lock loses its session after five seconds.
//
// Where a COMMIT waits for a synchronous standby and somebody cancels that, its entries
// are visible and on one disk only. So a batch of duplicates ends in a COMMIT that waits, too.
//
// The unique index on the key would refuse a second entry of an event even if the
// lock failed to order the auditors, and so would the one on the number; both are
// looked at before anything is written.
package pgledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// defaultTimeout bounds everything that a batch waits for. It is longer than
	// sessionTimeout, so that a stopped auditor fails nobody else's batch.
	defaultTimeout = 10 * time.Second
	maxPending     = 64 << 20 // bytes that wait to be written
	channel        = "taskwire_audit"
	readers        = 4 // connections
)

// Config says where the database is and what observes it.
type Config struct {
	Database postgres.Config

	// Now is the clock for audited_at (time.Now). Order and de-duplication do not use it.
	Now func() time.Time

	// Timeout of a batch (10 s).
	Timeout time.Duration

	// OnSync receives how long each commit took and how many entries it made
	// durable. It runs between batches and must not block.
	OnSync func(took time.Duration, entries int)
}

// Ledger is an open log. Its methods may be called from any goroutine.
type Ledger struct {
	cfg  Config
	pool *pgxpool.Pool // for readers

	// conn belongs to the goroutine that writes: the holder of busy. nil when there
	// is none, or it cannot be used any more.
	conn *pgx.Conn

	mu      sync.Mutex // guards the fields below
	busy    bool       // a goroutine writes, or has its turn
	queue   []*batch   // the next batches to write
	writing *batch
	pending int   // bytes in all of those
	entries int64 // committed, as far as this process knows
	gaps    int64
	acked   int64         // the highest number that this process answered for
	grown   chan struct{} // see Await; nil when nobody waits
	trouble error         // of the last batch or look at the head; nil when it went well
	fault   error         // final
	failed  chan struct{}
	closed  bool
}

// Open connects, brings the schema up to date and checks what the guarantees rest
// on. postgres.Unavailable tells which errors may go away by themselves.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	l := &Ledger{cfg: cfg, failed: make(chan struct{})}
	if err := l.open(ctx); err != nil {
		l.drop()
		return nil, fmt.Errorf("audit database: %w", err)
	}
	return l, nil
}

func (l *Ledger) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	conn, _, err := l.writer(ctx)
	if err == nil {
		err = l.look(ctx, conn)
	}
	if err == nil {
		l.pool, err = postgres.Open(ctx, l.cfg.Database, readers)
	}
	return err
}

// writer returns the connection for batches, a new one if need be. What the
// guarantees rest on is looked at for each.
func (l *Ledger) writer(ctx context.Context) (conn *pgx.Conn, reused bool, err error) {
	if l.conn != nil && !l.conn.IsClosed() {
		return l.conn, true, nil
	}
	if l.conn, err = postgres.Connect(ctx, l.cfg.Database); err != nil {
		return nil, false, err
	}
	if err = migrate(ctx, l.conn); err == nil {
		err = inspect(ctx, l.conn)
	}
	if err == nil {
		err = limit(ctx, l.conn)
	}
	return l.conn, false, err
}

// drop closes the connection for batches at once: what it was doing is rolled
// back, or committed already.
func (l *Ledger) drop() {
	if l.conn == nil {
		return
	}
	_ = l.conn.PgConn().Conn().Close()
	_ = l.conn.Close(context.Background()) // says goodbye to nobody
	l.conn = nil
}

// shut says goodbye to a server that may be gone or frozen.
func shut(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// look reads the head.
func (l *Ledger) look(ctx context.Context, conn *pgx.Conn) error {
	var entries, gaps int64
	if err := conn.QueryRow(ctx, "SELECT entries, version_gaps FROM audit.head").Scan(&entries, &gaps); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = nil
	l.note(entries, gaps)
	return nil
}

// note wakes those who wait for entries. mu is held, or no other goroutine has l yet.
func (l *Ledger) note(entries, gaps int64) {
	if entries <= l.entries {
		return
	}
	l.entries, l.gaps = entries, gaps
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// Len is the number of entries, also of other auditors as soon as Run has heard of them.
func (l *Ledger) Len() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.entries }

// VersionGaps is the number of entries with a VersionGap since the log began.
func (l *Ledger) VersionGaps() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.gaps }

// Fault is the *ledger.FaultError after which nothing is acknowledged, or nil.
func (l *Ledger) Fault() error { l.mu.Lock(); defer l.mu.Unlock(); return l.fault }

// Room is why the last attempt to reach the database failed, or nil.
func (l *Ledger) Room() error { l.mu.Lock(); defer l.mu.Unlock(); return l.trouble }

func (l *Ledger) setTrouble(err error) { l.mu.Lock(); defer l.mu.Unlock(); l.trouble = err }

// Run listens for the entries of other auditors until ctx ends, and returns the
// fault if there is one.
func (l *Ledger) Run(ctx context.Context) error {
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		backoff := retry.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
		for listening.Err() == nil {
			err := l.listen(listening, backoff.Reset)
			if listening.Err() == nil && err != nil {
				l.setTrouble(&UnavailableError{err})
			}
			_ = backoff.Wait(listening) // the loop looks
		}
	}()
	select {
	case <-l.failed:
	case <-ctx.Done():
	}
	stop()
	<-done
	return l.Fault()
}

// listen returns when its connection fails. A notification that got lost with a
// connection does no harm: the head is read at the start and every few seconds.
func (l *Ledger) listen(ctx context.Context, connected func()) error {
	conn, err := postgres.Connect(ctx, l.cfg.Database)
	if err != nil {
		return err
	}
	defer shut(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		if err := l.glance(ctx, conn); err != nil {
			return err
		}
		connected()
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
	}
}

// glance is look with a limit: a frozen server must not keep Room from saying so.
func (l *Ledger) glance(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	return l.look(ctx, conn)
}

// Await waits for an entry above after.
func (l *Ledger) Await(ctx context.Context, after int64) error {
	for {
		l.mu.Lock()
		if l.entries > after {
			l.mu.Unlock()
			return nil
		}
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-grown:
		case <-l.failed:
			return l.Fault()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close waits for the batches in progress. Later appends fail with ledger.ErrClosed.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	for l.busy {
		waitFor := l.writing
		if n := len(l.queue); n > 0 {
			waitFor = l.queue[n-1]
		}
		l.mu.Unlock()
		<-waitFor.done
		l.mu.Lock()
	}
	l.mu.Unlock()
	l.pool.Close()
	if l.conn != nil {
		shut(l.conn)
	}
	return nil
}

// keyOf identifies what the parts name: the quotes keep them apart.
func keyOf(parts ...string) (k [32]byte) {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
	}
	h.Sum(k[:0])
	return k
}

// narrow is the hash by which entries are searched, nil for "". What it finds is
// compared with the filter.
func narrow(text string) *int64 {
	if text == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(text))
	n := int64(binary.BigEndian.Uint64(sum[:])) //nolint:gosec // any 64 bits will do
	return &n
}
