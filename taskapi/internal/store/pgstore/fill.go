package pgstore

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Filled is how much Fill has copied.
type Filled struct {
	Tasks, Events, Waiting, Keys int64
	Before                       bool // an earlier run had copied the same contents
}

// ErrNotEmpty is a database that holds tasks, events or keys of its own.
var ErrNotEmpty = errors.New("the database of DATABASE_URL already holds tasks; copy into an empty one")

// Fill copies contents into an empty database, all or nothing: ids, versions,
// times, the events that wait and the idempotency keys stay as they are. When an
// earlier Fill has committed the same contents, it copies nothing and says so: its
// caller may have died before it could note it.
func Fill(ctx context.Context, cfg postgres.Config, from record.Contents) (f Filled, err error) {
	conn, err := postgres.Connect(ctx, cfg)
	if err != nil {
		return f, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := postgres.Migrate(ctx, conn, schema, migrations); err != nil {
		return f, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		f, err = fill(ctx, tx, from)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotEmpty) {
		return f, fmt.Errorf("copy into PostgreSQL: %w; nothing is half copied, run it again", err)
	}
	return f, err
}

func fill(ctx context.Context, tx pgx.Tx, from record.Contents) (f Filled, err error) {
	// Nobody writes meanwhile, and the copy may take longer than a request may.
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
		LOCK TABLE taskapi.task, taskapi.outbox, taskapi.unpublished, taskapi.idempotency, taskapi.filled_from IN EXCLUSIVE MODE`); err != nil {
		return f, err
	}
	var holds bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM taskapi.filled_from WHERE fingerprint = $1),
		EXISTS (SELECT FROM taskapi.task) OR EXISTS (SELECT FROM taskapi.outbox) OR EXISTS (SELECT FROM taskapi.idempotency)`, from.Fingerprint).Scan(&f.Before, &holds)
	switch {
	case err != nil || f.Before:
		return f, err
	case holds:
		return f, ErrNotEmpty
	}
	if f.Tasks, err = copyIn(ctx, tx, "task", []string{"id", "title", "status", "owner_id", "version", "created_at", "updated_at"}, from.Tasks, func(t task.Task) []any {
		var owner any
		if t.OwnerID != "" {
			owner = t.OwnerID
		}
		return []any{t.ID, t.Title, string(t.Status), owner, t.Version, t.CreatedAt, t.UpdatedAt}
	}); err != nil {
		return f, err
	}
	var waiting [][]any
	last := int64(0)
	if f.Events, err = copyIn(ctx, tx, "outbox", []string{"id", "task_id", "event", "created_at"}, from.Events, func(e record.Stored) []any {
		if last = e.ID; e.Waiting {
			waiting = append(waiting, []any{e.ID})
		}
		return []any{e.ID, e.TaskID, e.Event, e.At}
	}); err != nil {
		return f, err
	}
	if f.Waiting, err = tx.CopyFrom(ctx, pgx.Identifier{schema, "unpublished"}, []string{"id"}, pgx.CopyFromRows(waiting)); err != nil {
		return f, err
	}
	if f.Keys, err = copyIn(ctx, tx, "idempotency", []string{"key", "fingerprint", "answer", "created_at"}, from.Keys, func(k record.Key) []any {
		return []any{[]byte(k.Value), k.Fingerprint, k.Answer, k.At}
	}); err != nil {
		return f, err
	}
	if last > 0 { // new ids go on after the last
		if _, err := tx.Exec(ctx, `SELECT setval('taskapi.outbox_id', $1)`, last); err != nil {
			return f, err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO taskapi.filled_from (fingerprint, at) VALUES ($1, now())`, from.Fingerprint)
	return f, err
}

func copyIn[T any](ctx context.Context, tx pgx.Tx, table string, columns []string, from iter.Seq2[T, error], row func(T) []any) (int64, error) {
	next, stop := iter.Pull2(from)
	defer stop()
	n, err := tx.CopyFrom(ctx, pgx.Identifier{schema, table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		v, err, ok := next()
		if !ok || err != nil {
			return nil, err
		}
		return row(v), nil
	}))
	if err != nil {
		return n, fmt.Errorf("table %s: %w", table, err)
	}
	return n, nil
}
