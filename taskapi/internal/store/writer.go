package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const (
	maxBatch   = 512 // jobs in one transaction
	purgeEvery = time.Minute
	purgeStep  = 20 * time.Millisecond
	purgeRows  = 1000 // in one transaction, so that no change waits long behind a purge
)

// job is one piece of work for the writer. do runs inside a transaction and
// may run a second time, in a transaction of its own, after the first was
// rolled back; it must leave nothing behind but its result.
type job struct {
	ctx  context.Context
	do   func(*txn) error
	err  error      // owned by the writer until done
	done chan error // capacity 1: the writer never waits for the caller
}

// submit passes do to the writer and waits until its transaction is on disk.
func (s *Store) submit(ctx context.Context, do func(*txn) error) error {
	j := s.free.Get().(*job)
	j.ctx, j.do = ctx, do
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return errStopped
	}
	select {
	case err := <-j.done:
		return s.release(j, err)
	case <-ctx.Done():
		return ctx.Err() // the job may still be committed; its object is not used again
	case <-s.stopped:
	}
	// Run may have answered just before it ended.
	select {
	case err := <-j.done:
		return s.release(j, err)
	default:
		return errStopped
	}
}

func (s *Store) release(j *job, err error) error {
	j.ctx, j.do, j.err = nil, nil, nil
	s.free.Put(j)
	return err
}

var errStopped = fmt.Errorf("%w: stopping", task.ErrUnavailable)

// Run is the writer. It returns nil when ctx has ended and everything submitted
// before that is answered, or the fault after which the file cannot be trusted
// to keep what would be acknowledged: then the process must end.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.stopped)
	return s.conn.Raw(func(c any) error {
		w, err := newWriter(s, c.(driver.Conn))
		if err != nil {
			return err
		}
		return errors.Join(w.loop(ctx), w.close())
	})
}

// loop commits in one transaction whatever was submitted while the previous
// transaction was written to disk.
func (w *writer) loop(ctx context.Context) error {
	purge := time.NewTimer(purgeEvery)
	defer purge.Stop()
	batch := make([]*job, 0, maxBatch)
	for w.fault == nil {
		select {
		case j := <-w.s.jobs:
			// Requests that are ready to run get their jobs in first: a fuller
			// transaction costs nobody a wait and saves the next one.
			runtime.Gosched()
			w.commit(w.gather(append(batch, j)))
		case <-purge.C:
			purge.Reset(w.purge())
		case <-ctx.Done():
			for w.fault == nil && len(w.s.jobs) > 0 {
				w.commit(w.gather(batch))
			}
			return w.fault
		}
	}
	return w.fault
}

func (w *writer) gather(batch []*job) []*job {
	for len(batch) < maxBatch {
		select {
		case j := <-w.s.jobs:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit answers every job of the batch. When one of them breaks the
// transaction, each runs again alone, so that only the faulty one fails.
func (w *writer) commit(batch []*job) {
	w.s.writing.Store(time.Now().UnixNano())
	defer w.s.writing.Store(0)
	err := w.transact(batch)
	if err != nil && len(batch) > 1 && w.fault == nil {
		for _, j := range batch {
			w.answer(j, w.transact([]*job{j}))
		}
		return
	}
	for _, j := range batch {
		w.answer(j, err)
	}
}

func (w *writer) answer(j *job, err error) {
	if err != nil {
		err = w.refusal(err)
	} else {
		err = j.err
	}
	j.done <- err
}

// refusal is what a caller gets when its transaction failed.
func (w *writer) refusal(err error) error {
	if code(err) == sqlite3.SQLITE_FULL {
		return &task.BusyError{Reason: "the disk of the task store is full", RetryAfter: 30 * time.Second}
	}
	return unavailable("write to the task store", err)
}

// txn is one transaction. Its changes to the writer's state in memory are kept
// here until the commit has succeeded.
type txn struct {
	*writer
	last     int64
	outboxID int64
	pending  int64

	published []run
	added     []outbox.Row
}

// transact runs the batch in one transaction. A job that refuses by itself
// (no such task, say) has written nothing and keeps its error in j.err; any
// other error rolls everything back and is returned.
func (w *writer) transact(batch []*job) error {
	if w.fault != nil {
		return w.fault
	}
	t := &txn{writer: w, last: w.s.last, outboxID: w.s.outboxID, pending: w.s.pending.Load()}
	if err := w.begin.exec(); err != nil {
		return w.failed("begin", err)
	}
	for _, j := range batch {
		if j.err = j.ctx.Err(); j.err != nil {
			continue // the caller has gone
		}
		j.err = j.do(t)
		if broken := (*brokenError)(nil); errors.As(j.err, &broken) {
			return errors.Join(w.failed("write", j.err), w.undo())
		}
	}
	woke := t.outboxID != w.s.outboxID
	if woke { // one statement for the new rows of all jobs
		if err := w.newUnpublished.exec(w.s.outboxID); err != nil {
			return errors.Join(w.failed("write", err), w.undo())
		}
	}
	if err := w.s.cfg.commit(w.end.exec); err != nil {
		// Whether the commit reached the disk is unknown unless SQLite says that it did not try.
		if code(err) != sqlite3.SQLITE_FULL && code(err) != sqlite3.SQLITE_BUSY {
			w.fault = fmt.Errorf("commit to %s: %w", w.s.cfg.Path, err)
		}
		return errors.Join(err, w.undo())
	}
	if woke {
		failpoint.Hit("A4")
	}
	w.s.last, w.s.outboxID = t.last, t.outboxID
	w.s.pending.Store(t.pending)
	w.s.latest.commit(t.published, t.added, t.pending)
	if woke {
		select {
		case w.s.wake <- struct{}{}:
		default: // a wake-up is already pending
		}
	}
	return nil
}

// failed remembers an error after which the file cannot be trusted.
func (w *writer) failed(doing string, err error) error {
	switch code(err) {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		w.fault = fmt.Errorf("%s %s: %w", doing, w.s.cfg.Path, err)
	}
	return err
}

// undo rolls back what SQLite has not rolled back by itself.
func (w *writer) undo() error {
	if err := w.rollback.exec(); err != nil && code(err) != sqlite3.SQLITE_ERROR {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// code is SQLite's primary result code in err, or 0.
func code(err error) int {
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// brokenError is an error of the database inside a job, as opposed to a refusal.
type brokenError struct{ cause error }

func (e *brokenError) Error() string { return e.cause.Error() }
func (e *brokenError) Unwrap() error { return e.cause }

// now is the time of a change. Times increase strictly, so that the order of
// creation is the order of commits; a clock set back by more than a second is
// followed, since otherwise every later time would be wrong.
func (t *txn) now() time.Time {
	us := t.s.cfg.Now().UnixMicro()
	if us <= t.last && t.last-us < time.Second.Microseconds() {
		us = t.last + 1
	}
	t.last = us
	return fromMicros(us)
}

// purge does one step of a purge and returns when to do the next: soon while there
// is more to do, so that changes run in between.
func (w *writer) purge() time.Duration {
	if !w.purging {
		spare, err := w.countSpare()
		if err != nil {
			return purgeEvery // the next write reports the fault
		}
		w.purging, w.spare = true, spare
	}
	now := w.s.cfg.Now()
	var more bool
	j := &job{ctx: context.Background(), done: make(chan error, 1), do: func(t *txn) (err error) {
		if t.spare > 0 {
			more = true
			return t.giveBack()
		}
		more, err = t.purge(now)
		return err
	}}
	w.commit([]*job{j})
	if err := <-j.done; err != nil || !more {
		w.purging = false
		return purgeEvery
	}
	return purgeStep
}

// purge deletes expired rows and reports whether there are more.
func (t *txn) purge(now time.Time) (more bool, err error) {
	rows, err := t.purgeOutbox.change(now.Add(-t.s.cfg.Retention).UnixMicro(), int64(purgeRows))
	if err != nil {
		return false, err
	}
	keys, err := t.purgeKeys.change(now.Add(-task.KeyLifetime).UnixMicro(), int64(purgeRows))
	return max(rows, keys) == purgeRows, err
}
