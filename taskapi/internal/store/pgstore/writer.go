package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// transactionTimeout is longer than what the server allows a statement and a lock,
// so that the server's answer comes first.
const transactionTimeout = 15 * time.Second

// tries is how often changes are tried that are known not to be committed.
const tries = 4

// job is a change that waits for its answer. It is a create or an update.
type job struct {
	ctx    context.Context
	create *task.Create
	update *task.Update
	done   chan result // capacity 1: the writer never waits for the caller
}

type result struct {
	answer task.Answer
	err    error
}

func (j *job) key() task.IdempotencyKey {
	if j.create != nil {
		return j.create.IdempotencyKey
	}
	return j.update.IdempotencyKey
}

// Create makes a task in its first version.
func (s *Store) Create(ctx context.Context, c task.Create) (task.Answer, error) {
	return s.submit(&job{ctx: ctx, create: &c})
}

// Update changes a task.
func (s *Store) Update(ctx context.Context, u task.Update) (task.Answer, error) {
	return s.submit(&job{ctx: ctx, update: &u})
}

var errStopped = fmt.Errorf("%w: stopping", task.ErrUnavailable)

// submit passes a job to the writer and waits until its transaction is committed.
func (s *Store) submit(j *job) (task.Answer, error) {
	failpoint.Hit("A1")
	j.done = make(chan result, 1)
	select {
	case s.jobs <- j:
	case <-j.ctx.Done():
		return task.Answer{}, j.ctx.Err()
	case <-s.stopped:
		return task.Answer{}, errStopped
	}
	select {
	case r := <-j.done:
		return r.answer, r.err
	case <-j.ctx.Done():
		return task.Answer{}, j.ctx.Err() // it may still be committed
	case <-s.stopped:
	}
	select { // Run may have answered just before it ended
	case r := <-j.done:
		return r.answer, r.err
	default:
		return task.Answer{}, errStopped
	}
}

// Run commits changes until ctx ends, and then those that were submitted before. A
// database that is down refuses each of them and does not end Run.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.stopped)
	var writing, rest sync.WaitGroup
	for range s.cfg.writers {
		writing.Go(func() { s.write(ctx) })
	}
	helping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	rest.Go(func() { s.announce(helping) })
	rest.Go(func() { s.purgeOften(helping) })
	writing.Wait()
	s.lanes.Wait()
	stop()
	rest.Wait()
	return nil
}

// write commits in one transaction whatever was submitted while the one before
// was under way.
func (s *Store) write(ctx context.Context) {
	for {
		select {
		case j := <-s.jobs:
			s.run(s.gather(j), false)
		case <-ctx.Done():
			for {
				select {
				case j := <-s.jobs:
					s.run(s.gather(j), false)
				default:
					return
				}
			}
		}
	}
}

func (s *Store) gather(first *job) []*job {
	batch := []*job{first}
	for len(batch) < s.cfg.batch {
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// run answers every job of the batch, or passes it to the lane of its task.
//
// What if something ends right here? Before the COMMIT is sent nothing has
// happened: the server rolls back the transaction of a session that ends, and the
// batch is tried again. Once it is sent, only the server's answer tells: a batch
// whose answer is lost is never tried again, since that could make its changes
// twice. Its callers get an error that leaves it open, and find out with their
// idempotency keys.
func (s *Store) run(batch []*job, wait bool) {
	if !wait {
		s.writing.Store(time.Now().UnixNano())
		defer s.writing.Store(0)
	}
	var t *txn
	var err error
	for try := 1; ; try++ {
		t, err = s.transact(batch, wait)
		if err == nil {
			break
		}
		if try == tries || !again(err) {
			s.refuse(batch, wait, err)
			return
		}
	}
	for i, j := range batch {
		if r := t.results[i]; !r.postponed {
			j.done <- r.result
		}
	}
	s.postpone(t.postponed)
}

// again reports whether the batch was certainly not committed, for a reason that
// may be gone now: a key that another transaction committed, a session that ended.
func again(err error) bool {
	if lost := (*unknownError)(nil); errors.As(err, &lost) {
		return false
	}
	switch postgres.Code(err) {
	case postgres.UniqueViolation, postgres.Deadlock, postgres.Serialization, "57P01", "57P05", "25P03":
		return true
	case "":
		return errors.Is(err, errSessionLost) && !pgconn.Timeout(err)
	}
	return false
}

// refuse answers a batch that was not committed, or is not known to be. Where one
// change may be the cause, each is tried alone.
func (s *Store) refuse(batch []*job, wait bool, err error) {
	lost := (*unknownError)(nil)
	if len(batch) > 1 && !errors.As(err, &lost) && !postgres.Unavailable(err) && !errors.Is(err, errSessionLost) &&
		(!wait || postgres.Code(err) != postgres.LockTimeout) {
		for _, j := range batch {
			s.run([]*job{j}, wait)
		}
		return
	}
	switch code := postgres.Code(err); {
	case code == postgres.LockTimeout:
		err = &task.BusyError{Reason: "another request changes this task, or uses this Idempotency-Key, and does not end", RetryAfter: 5 * time.Second}
	case code == "53100":
		err = &task.BusyError{Reason: "the disk of the task store is full", RetryAfter: 30 * time.Second}
	default:
		if code == "" || postgres.Unavailable(err) {
			s.heard(err)
		}
		err = fmt.Errorf("write to the task store: %w: %w", task.ErrUnavailable, err)
	}
	for _, j := range batch {
		j.done <- result{err: err}
	}
}

// postpone gives changes of tasks that another transaction has locked to the lane of their
// task, which waits for the lock.
func (s *Store) postpone(jobs []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range jobs {
		id := j.update.ID
		queue, running := s.blocked[id]
		s.blocked[id] = append(queue, j)
		if !running {
			s.lanes.Go(func() { s.lane(id) }) // Run waits for it
		}
	}
}

// lane commits what waits for one task. It ends when nothing does.
func (s *Store) lane(id string) {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	for {
		s.mu.Lock()
		queue := s.blocked[id]
		if len(queue) == 0 {
			delete(s.blocked, id)
			s.mu.Unlock()
			return
		}
		n := min(len(queue), s.cfg.batch)
		batch := queue[:n:n]
		s.blocked[id] = queue[n:]
		s.mu.Unlock()
		s.run(batch, true)
	}
}

// now is the time of a change. Times of one replica increase strictly, and those
// of a task too; a clock that was set back by more than a second is followed, since
// otherwise every later time would be wrong.
func (s *Store) now(before time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	us := s.cfg.Now().UnixMicro()
	for _, last := range []int64{s.last, before.UnixMicro()} {
		if us <= last && last-us < time.Second.Microseconds() {
			us = last + 1
		}
	}
	s.last = us
	return time.UnixMicro(us).UTC()
}

// pending is how many events wait for Kafka, from all replicas.
type pending struct {
	count int64
	fresh time.Time // until when the count need not be asked for
}

// recount asks for the count once a second, less often when asking takes long.
const recount = time.Second

const (
	purgeEvery = time.Minute
	purgeRows  = 1000 // in one transaction
)

func (s *Store) purgeOften(ctx context.Context) {
	timer := time.NewTimer(purgeEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pause := purgeEvery
		if n, err := s.purge(ctx); err == nil && n == purgeRows {
			pause = 20 * time.Millisecond
		}
		timer.Reset(pause)
	}
}

// purge deletes what has expired, up to purgeRows of each kind. Replicas may purge at the
// same time. Rows below the first unpublished one are all published: one that has
// not appeared yet cannot be deleted either.
func (s *Store) purge(ctx context.Context) (int64, error) {
	now := s.cfg.Now()
	rows, err := s.writes.Exec(ctx, `DELETE FROM taskapi.outbox WHERE id IN (SELECT id FROM taskapi.outbox
		WHERE id < coalesce((SELECT min(id) FROM taskapi.unpublished), 9223372036854775807) AND created_at < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		now.Add(-s.cfg.Retention), purgeRows)
	if err != nil {
		return 0, err
	}
	keys, err := s.writes.Exec(ctx, `DELETE FROM taskapi.idempotency WHERE key IN (SELECT key FROM taskapi.idempotency
		WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`, now.Add(-task.KeyLifetime), purgeRows)
	if err != nil {
		return 0, err
	}
	return max(rows.RowsAffected(), keys.RowsAffected()), nil
}
