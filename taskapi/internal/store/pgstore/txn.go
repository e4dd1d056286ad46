package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// errSessionLost is a session that ended before its COMMIT was sent.
var errSessionLost = errors.New("the session ended before the commit")

// unknownError is a transaction that may be committed.
type unknownError struct{ cause error }

func (e *unknownError) Error() string {
	return "the answer to the commit was lost, so it is unknown whether it happened: " + e.cause.Error()
}
func (e *unknownError) Unwrap() error { return e.cause }

// txn is one transaction: what it has read, and what it will write.
type txn struct {
	s    *Store
	wait bool // for tasks that are locked

	tasks map[string]task.Task // locked by this transaction
	keys  map[string]stored    // found, or made by a job before
	ids   []int64              // for outbox rows, ascending, drawn after the locks
	count int64                // events that wait

	results   []answered // by job
	postponed []*job

	created []task.Task
	changed map[string]bool // ids of tasks
	events  []row
	fresh   []string // keys to store
	expired []string // keys to delete first
}

type answered struct {
	result
	postponed bool
}

// row is one of the outbox.
type row struct {
	task  string
	event []byte
	at    time.Time
}

// stored is the first answer under a key.
type stored struct {
	fingerprint []byte
	answer      task.Answer
	text        []byte
	at          time.Time
}

// transact runs the batch in one transaction of two round trips: read and lock,
// then write and commit. A job that refuses by itself (no such task, say) writes
// nothing and has its error in the results.
func (s *Store) transact(batch []*job, wait bool) (*txn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	defer cancel()
	conn, err := s.writes.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Release() // closes a session that is in a transaction
	t := &txn{s: s, wait: wait, tasks: map[string]task.Task{}, keys: map[string]stored{}, changed: map[string]bool{}}
	if err := t.read(ctx, conn, batch); err != nil {
		return nil, t.rollback(ctx, conn, err)
	}
	t.decide(batch)
	if err := t.missing(ctx, conn, batch); err != nil {
		return nil, t.rollback(ctx, conn, err)
	}
	if !t.confirms() {
		return t, t.rollback(ctx, conn, nil)
	}
	if err := t.write(ctx, conn); err != nil {
		if !postgres.RolledBack(err) {
			return nil, &unknownError{err}
		}
		return nil, t.rollback(ctx, conn, err)
	}
	if len(t.events) > 0 {
		failpoint.Hit("A4")
	}
	s.committed(t)
	return t, nil
}

// confirms reports whether a change is answered with success. Where it writes nothing, as
// a repeat does, its answer still says that what was read stays.
func (t *txn) confirms() bool {
	return slices.ContainsFunc(t.results, func(r answered) bool { return r.err == nil && !r.postponed })
}

// rollback ends the transaction. A session that cannot do it is closed, which does it, too.
func (t *txn) rollback(ctx context.Context, conn *pgxpool.Conn, err error) error {
	if err != nil && !postgres.RolledBack(err) {
		return errors.Join(errSessionLost, err)
	}
	if _, failed := conn.Exec(ctx, "ROLLBACK"); failed != nil {
		_ = conn.Conn().Close(ctx) // the server rolls back what its session leaves
	}
	return err
}

// committed takes over what the transaction has changed.
func (s *Store) committed(t *txn) {
	s.heard(nil)
	s.mu.Lock()
	s.pending.count += int64(len(t.events))
	s.mu.Unlock()
	if len(t.events) == 0 {
		return
	}
	s.wakeRelay()
	if !s.leading.Load() {
		select {
		case s.notify <- struct{}{}:
		default: // what is announced next stands for this, too
		}
	}
}

const (
	lockTasks = `SELECT ` + columns + ` FROM taskapi.task WHERE id = ANY($1) ORDER BY id FOR UPDATE`
	findKeys  = `SELECT key, fingerprint, answer, created_at FROM taskapi.idempotency WHERE key = ANY($1)`
	// takeXID is before drawIDs, see settled.
	takeXID   = `SELECT pg_current_xact_id()`
	drawIDs   = `SELECT nextval('taskapi.outbox_id') FROM generate_series(1, $1::int)`
	countRows = `SELECT count(*) FROM taskapi.unpublished`
)

// read locks the tasks before anything else, in the order of their ids.
func (t *txn) read(ctx context.Context, conn *pgxpool.Conn, batch []*job) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	if ids := taskIDs(batch); len(ids) > 0 {
		lock := lockTasks
		if !t.wait {
			lock += " SKIP LOCKED"
		}
		b.Queue(lock, ids).Query(func(rows pgx.Rows) error {
			found, err := pgx.CollectRows(rows, scan)
			for _, tk := range found {
				t.tasks[tk.ID] = tk
			}
			return err
		})
	}
	if keys := keysOf(batch); len(keys) > 0 {
		b.Queue(findKeys, keys).Query(t.readKeys)
	}
	b.Queue(takeXID)
	b.Queue(drawIDs, len(batch)).Query(func(rows pgx.Rows) (err error) {
		t.ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	began, stale := time.Now(), t.stale()
	if stale {
		b.Queue(countRows).QueryRow(func(row pgx.Row) error { return row.Scan(&t.count) })
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	t.pending(stale, began)
	return nil
}

func (t *txn) readKeys(rows pgx.Rows) error {
	for rows.Next() {
		var key []byte
		var f stored
		if err := rows.Scan(&key, &f.fingerprint, &f.text, &f.at); err != nil {
			return err
		}
		var err error
		if f.answer, err = record.ParseAnswer(f.text); err != nil {
			return err
		}
		t.keys[string(key)] = f
	}
	return rows.Err()
}

func (t *txn) stale() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return time.Now().After(t.s.pending.fresh)
}

// pending takes the count over when it was asked for, or what was last known.
func (t *txn) pending(asked bool, began time.Time) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if asked {
		t.s.pending.count = t.count
		t.s.pending.fresh = time.Now().Add(recount + 20*time.Since(began))
	}
	t.count = t.s.pending.count
}

func taskIDs(batch []*job) []string {
	var ids []string
	for _, j := range batch {
		if j.update != nil && isID(j.update.ID) {
			ids = append(ids, j.update.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func keysOf(batch []*job) (keys [][]byte) {
	for _, j := range batch {
		if key := j.key().Value; key != "" {
			keys = append(keys, []byte(key))
		}
	}
	return keys
}

// decide computes every answer from what was read, job after job.
func (t *txn) decide(batch []*job) {
	t.results = make([]answered, len(batch))
	for i, j := range batch {
		r := &t.results[i]
		if r.err = j.ctx.Err(); r.err != nil {
			continue // the caller has gone
		}
		first, err := t.replay(j.key())
		switch {
		case err != nil:
			r.err = err
		case first != nil:
			r.answer = *first
		case j.create != nil:
			now := t.s.now(time.Time{})
			r.answer = task.Answer{Task: task.New(record.NewID(now), j.create.Title, j.create.OwnerID, now), Kind: task.WasCreated}
			r.err = t.add(r.answer, j.create.Origin, j.create.IdempotencyKey, now)
		default:
			r.answer, r.err = t.update(j.update)
		}
		if r.err != nil {
			r.answer = task.Answer{}
		}
		r.postponed = errors.Is(r.err, errLocked)
	}
}

// errLocked is a task that was not found: it is locked, or there is none.
var errLocked = errors.New("task is locked")

func (t *txn) update(u *task.Update) (task.Answer, error) {
	current, ok := t.tasks[u.ID]
	switch {
	case !ok && (t.wait || !isID(u.ID)):
		return task.Answer{}, task.ErrNotFound
	case !ok:
		return task.Answer{}, errLocked
	case u.Match != nil && !slices.Contains(u.Match, current.Version):
		return task.Answer{}, task.ErrVersion
	}
	now := t.s.now(current.UpdatedAt)
	next, kind := current.Apply(u.Patch, now)
	answer := task.Answer{Task: next, Kind: kind}
	return answer, t.add(answer, u.Origin, u.IdempotencyKey, now)
}

// replay looks for the first answer under this key. A key older than its
// lifetime counts as new, whether or not it has been purged.
func (t *txn) replay(key task.IdempotencyKey) (*task.Answer, error) {
	first, ok := t.keys[key.Value]
	switch {
	case key.Value == "" || !ok:
		return nil, nil
	case t.s.cfg.Now().Sub(first.at) >= task.KeyLifetime:
		t.expired = append(t.expired, key.Value)
		delete(t.keys, key.Value)
		return nil, nil
	case !bytes.Equal(first.fingerprint, key.Fingerprint[:]):
		return nil, task.ErrKeyReused
	}
	answer := first.answer
	answer.Replayed = true
	return &answer, nil
}

// add puts the change, its event and its key into what is written. What can
// refuse comes before the first of them.
func (t *txn) add(a task.Answer, origin task.Origin, key task.IdempotencyKey, now time.Time) error {
	if a.Kind != task.Unchanged {
		if waiting := t.count + int64(len(t.events)); waiting >= t.s.cfg.OutboxLimit {
			return &task.BusyError{Reason: fmt.Sprintf("%d events already wait for Kafka", waiting), RetryAfter: 10 * time.Second}
		}
		body, err := record.Event(a, origin, now, t.s.cfg.Signer, t.s.cfg.DataSchema)
		if err != nil {
			return err
		}
		if a.Kind == task.WasCreated {
			t.created = append(t.created, a.Task)
		} else {
			t.tasks[a.Task.ID], t.changed[a.Task.ID] = a.Task, true
		}
		t.events = append(t.events, row{a.Task.ID, body, now})
	}
	if key.Value == "" {
		return nil
	}
	text, err := record.MarshalAnswer(a)
	if err != nil {
		return err
	}
	t.keys[key.Value] = stored{key.Fingerprint[:], a, text, now}
	t.fresh = append(t.fresh, key.Value)
	return nil
}

// missing tells the tasks that are locked from those that there are none of. Tasks
// are never deleted, so an id without a row now is nobody's.
func (t *txn) missing(ctx context.Context, conn *pgxpool.Conn, batch []*job) error {
	var ids []string
	for i, r := range t.results {
		if r.postponed {
			ids = append(ids, batch[i].update.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT id::text FROM taskapi.task WHERE id = ANY($1)`, ids)
	if err != nil {
		return err
	}
	exist, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for i := range t.results {
		switch r := &t.results[i]; {
		case !r.postponed:
		case slices.Contains(exist, batch[i].update.ID):
			t.postponed = append(t.postponed, batch[i])
		default:
			*r = answered{result: result{err: task.ErrNotFound}}
		}
	}
	return nil
}

// write sends everything and the COMMIT in one round trip. A statement that fails
// makes the server skip those after it, so the COMMIT then does not happen.
func (t *txn) write(ctx context.Context, conn *pgxpool.Conn) error {
	b := &pgx.Batch{}
	t.writeTasks(b)
	t.failAt(ctx, conn, "A2", b)
	t.writeEvents(b)
	t.writeKeys(b)
	t.failAt(ctx, conn, "A3", b)
	if len(t.events)+len(t.fresh) == 0 {
		b.Queue(postgres.Mark)
	}
	committed := false
	b.Queue("COMMIT")
	sent := conn.SendBatch(ctx, b)
	var err error
	for range b.Len() {
		tag, failed := sent.Exec()
		if failed != nil {
			err = failed
			break
		}
		committed = tag.String() == "COMMIT"
	}
	if closed := sent.Close(); err == nil {
		err = closed
	}
	if err == nil && !committed {
		err = errors.New("the server did not commit")
	}
	if err == nil {
		err = postgres.Confirmed(conn.Conn().PgConn())
	}
	return err
}

// failAt ends a test's process after what is queued has been sent.
func (t *txn) failAt(ctx context.Context, conn *pgxpool.Conn, point string, b *pgx.Batch) {
	if len(t.events) > 0 {
		failpoint.HitAfter(point, func() { _ = conn.SendBatch(ctx, b).Close() })
	}
}

func (t *txn) writeTasks(b *pgx.Batch) {
	if len(t.created) > 0 {
		c := columnsOf(t.created)
		b.Queue(`INSERT INTO taskapi.task (id, title, status, owner_id, version, created_at, updated_at)
			SELECT id, title, status, nullif(owner, '')::uuid, version, created, updated
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::timestamptz[])
			AS new (id, title, status, owner, version, created, updated)`, c.id, c.title, c.status, c.owner, c.version, c.created, c.updated)
	}
	if len(t.changed) > 0 {
		var changed []task.Task
		for id := range t.changed {
			changed = append(changed, t.tasks[id])
		}
		c := columnsOf(changed)
		b.Queue(`UPDATE taskapi.task SET title = new.title, status = new.status, owner_id = nullif(new.owner, '')::uuid,
			version = new.version, updated_at = new.updated
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])
			AS new (id, title, status, owner, version, updated) WHERE task.id = new.id`, c.id, c.title, c.status, c.owner, c.version, c.updated)
	}
}

// table is tasks by column.
type table struct {
	id, title, status, owner []string
	version                  []int64
	created, updated         []time.Time
}

func columnsOf(tasks []task.Task) (c table) {
	for _, t := range tasks {
		c.id, c.title, c.status, c.owner = append(c.id, t.ID), append(c.title, t.Title), append(c.status, string(t.Status)), append(c.owner, t.OwnerID)
		c.version, c.created, c.updated = append(c.version, t.Version), append(c.created, t.CreatedAt), append(c.updated, t.UpdatedAt)
	}
	return c
}

// writeEvents gives the drawn ids to the events in their order.
func (t *txn) writeEvents(b *pgx.Batch) {
	if len(t.events) == 0 {
		return
	}
	ids := t.ids[:len(t.events)]
	var tasks []string
	var events [][]byte
	var at []time.Time
	for _, e := range t.events {
		tasks, events, at = append(tasks, e.task), append(events, e.event), append(at, e.at)
	}
	b.Queue(`INSERT INTO taskapi.outbox (id, task_id, event, created_at) SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bytea[], $4::timestamptz[])`,
		ids, tasks, events, at)
	b.Queue(`INSERT INTO taskapi.unpublished (id) SELECT unnest($1::bigint[])`, ids)
}

// writeKeys stores the keys in their order, so that no two transactions wait for
// each other. A key that another transaction has committed since breaks this one.
func (t *txn) writeKeys(b *pgx.Batch) {
	if len(t.fresh) == 0 {
		return
	}
	if len(t.expired) > 0 {
		b.Queue(`DELETE FROM taskapi.idempotency WHERE key = ANY($1) AND created_at <= $2`, bytesOf(t.expired), t.s.cfg.Now().Add(-task.KeyLifetime))
	}
	slices.Sort(t.fresh)
	var fingerprints [][]byte
	var answers []string
	var at []time.Time
	for _, key := range t.fresh {
		k := t.keys[key]
		fingerprints, answers, at = append(fingerprints, k.fingerprint), append(answers, string(k.text)), append(at, k.at)
	}
	b.Queue(`INSERT INTO taskapi.idempotency (key, fingerprint, answer, created_at) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::timestamptz[])`,
		bytesOf(t.fresh), fingerprints, answers, at)
}

func bytesOf(keys []string) (all [][]byte) {
	for _, key := range keys {
		all = append(all, []byte(key))
	}
	return all
}
