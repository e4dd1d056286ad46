package store

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"time"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Create makes a task in its first version.
func (s *Store) Create(ctx context.Context, c task.Create) (task.Answer, error) {
	var answer task.Answer
	failpoint.Hit("A1")
	err := s.submit(ctx, func(t *txn) (err error) {
		answer, err = t.create(c)
		return err
	})
	if err != nil {
		return task.Answer{}, err
	}
	return answer, nil
}

// Update changes a task.
func (s *Store) Update(ctx context.Context, u task.Update) (task.Answer, error) {
	var answer task.Answer
	failpoint.Hit("A1")
	err := s.submit(ctx, func(t *txn) (err error) {
		answer, err = t.update(u)
		return err
	})
	if err != nil {
		return task.Answer{}, err
	}
	return answer, nil
}

// Published marks outbox rows as acknowledged by Kafka.
func (s *Store) Published(ctx context.Context, ids []int64) error {
	return s.submit(ctx, func(t *txn) error { return t.markPublished(ids) })
}

func (t *txn) create(c task.Create) (task.Answer, error) {
	if first, err := t.replay(c.IdempotencyKey); first != nil || err != nil {
		return deref(first), err
	}
	now := t.now()
	answer := task.Answer{Task: task.New(record.NewID(now), c.Title, c.OwnerID, now), Kind: task.WasCreated}
	return answer, t.write(answer, c.Origin, c.IdempotencyKey, now)
}

// update reads the task inside the transaction, where nothing else can run, so
// the version it assigns is the next one.
func (t *txn) update(u task.Update) (task.Answer, error) {
	// A repeat comes before the precondition, which its own first run made stale.
	if first, err := t.replay(u.IdempotencyKey); first != nil || err != nil {
		return deref(first), err
	}
	current, err := t.task(u.ID)
	if err != nil {
		return task.Answer{}, err
	}
	if u.Match != nil && !slices.Contains(u.Match, current.Version) {
		return task.Answer{}, task.ErrVersion
	}
	now := t.now()
	next, kind := current.Apply(u.Patch, now)
	answer := task.Answer{Task: next, Kind: kind}
	return answer, t.write(answer, u.Origin, u.IdempotencyKey, now)
}

func deref(a *task.Answer) task.Answer {
	if a == nil {
		return task.Answer{}
	}
	return *a
}

// write puts the change, its event and its key into the transaction. What can
// refuse comes before the first statement.
func (t *txn) write(a task.Answer, origin task.Origin, key task.IdempotencyKey, now time.Time) error {
	if a.Kind != task.Unchanged {
		if t.pending >= t.s.cfg.OutboxLimit {
			return &task.BusyError{Reason: fmt.Sprintf("%d events already wait for Kafka", t.pending), RetryAfter: 10 * time.Second}
		}
		body, err := record.Event(a, origin, now, t.s.cfg.Signer, t.s.cfg.DataSchema)
		if err != nil {
			return err
		}
		if err := t.put(a); err != nil {
			return err
		}
		failpoint.Hit("A2")
		if err := t.enqueue(a.Task.ID, body, now); err != nil {
			return err
		}
		failpoint.Hit("A3")
	}
	if key.Value == "" {
		return nil
	}
	return t.remember(key, a, now)
}

func (t *txn) put(a task.Answer) error {
	tk := a.Task
	if a.Kind == task.WasCreated {
		return t.newTask.exec(tk.ID, tk.Title, string(tk.Status), tk.OwnerID, tk.Version, tk.CreatedAt.UnixMicro(), tk.UpdatedAt.UnixMicro())
	}
	return t.setTask.exec(tk.Title, string(tk.Status), tk.OwnerID, tk.Version, tk.UpdatedAt.UnixMicro(), tk.ID)
}

func (t *txn) enqueue(taskID string, body []byte, now time.Time) error {
	id := t.outboxID + 1
	if err := t.newEvent.exec(id, taskID, body, now.UnixMicro()); err != nil {
		return err
	}
	t.outboxID = id
	t.added = append(t.added, outbox.Row{ID: id, TaskID: taskID, Event: body})
	t.pending++
	return nil
}

func (t *txn) task(id string) (task.Task, error) {
	var row [7]driver.Value
	found, err := t.getTask.row(row[:], id)
	if err != nil {
		return task.Task{}, err
	}
	if !found {
		return task.Task{}, task.ErrNotFound
	}
	return task.Task{
		ID: row[0].(string), Title: row[1].(string), Status: task.Status(row[2].(string)), OwnerID: row[3].(string),
		Version: row[4].(int64), CreatedAt: fromMicros(row[5].(int64)), UpdatedAt: fromMicros(row[6].(int64)),
	}, nil
}

// markPublished deletes runs of consecutive ids; a batch of the relay is nearly
// always one run.
func (t *txn) markPublished(ids []int64) error {
	for start := 0; start < len(ids); {
		end := start
		for end+1 < len(ids) && ids[end+1] == ids[end]+1 {
			end++
		}
		n, err := t.deletePublished.change(ids[start], ids[end])
		if err != nil {
			return err
		}
		t.pending -= n
		t.published = append(t.published, run{ids[start], ids[end]})
		start = end + 1
	}
	return nil
}

// replay looks for the first answer under this key. A key older than its
// lifetime counts as new, whether or not it has been purged.
func (t *txn) replay(key task.IdempotencyKey) (*task.Answer, error) {
	if key.Value == "" {
		return nil, nil
	}
	var row [3]driver.Value
	found, err := t.getKey.row(row[:], key.Value)
	if err != nil || !found || t.s.cfg.Now().Sub(fromMicros(row[2].(int64))) >= task.KeyLifetime {
		return nil, err
	}
	if !bytes.Equal(row[0].([]byte), key.Fingerprint[:]) {
		return nil, task.ErrKeyReused
	}
	first, err := record.ParseAnswer([]byte(row[1].(string)))
	if err != nil {
		return nil, &brokenError{err}
	}
	return &first, nil
}

func (t *txn) remember(key task.IdempotencyKey, a task.Answer, now time.Time) error {
	body, err := record.MarshalAnswer(a)
	if err != nil {
		return &brokenError{err}
	}
	return t.setKey.exec(key.Value, key.Fingerprint[:], string(body), now.UnixMicro())
}
