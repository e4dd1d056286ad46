package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const columns = "id::text, title, status, coalesce(owner_id::text, ''), version, created_at, updated_at"

// scan reads columns.
func scan(row pgx.CollectableRow) (t task.Task, err error) {
	var status string
	err = row.Scan(&t.ID, &t.Title, &status, &t.OwnerID, &t.Version, &t.CreatedAt, &t.UpdatedAt)
	t.Status, t.CreatedAt, t.UpdatedAt = task.Status(status), t.CreatedAt.UTC(), t.UpdatedAt.UTC()
	return t, err
}

// unavailable keeps the cause for the log and makes it a task.ErrUnavailable,
// unless the caller itself has gone.
func unavailable(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w: %w", doing, task.ErrUnavailable, err)
}

// isID reports whether a task can have this id. The type uuid would accept other
// spellings of it.
func isID(id string) bool {
	canonical, err := task.ParseUUID(id)
	return err == nil && canonical == id
}

// Get reads one task.
func (s *Store) Get(ctx context.Context, id string) (task.Task, error) {
	if !isID(id) {
		return task.Task{}, task.ErrNotFound
	}
	rows, err := s.reads.Query(ctx, `SELECT `+columns+` FROM taskapi.task WHERE id = $1`, id)
	if err != nil {
		return task.Task{}, unavailable(ctx, "read a task", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, scan)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return task.Task{}, task.ErrNotFound
	case err != nil:
		return task.Task{}, unavailable(ctx, "read a task", err)
	}
	return t, nil
}

// List reads one page, oldest first: ids are in the order of creation, as far as
// the clocks of the replicas agree.
func (s *Store) List(ctx context.Context, f task.Filter) (task.Page, error) {
	query, args := `SELECT `+columns+` FROM taskapi.task WHERE true`, []any{f.Limit + 1} // one more shows whether the list goes on
	where := func(condition string, value any) {
		args = append(args, value)
		query += fmt.Sprintf(" AND "+condition+" $%d", len(args))
	}
	if f.After != "" {
		if !isID(f.After) {
			return task.Page{}, fmt.Errorf("list tasks after an id that is none")
		}
		where("id >", f.After)
	}
	if f.Status != "" {
		where("status =", string(f.Status))
	}
	if f.OwnerID != "" {
		where("owner_id =", f.OwnerID)
	}
	rows, err := s.reads.Query(ctx, query+" ORDER BY id LIMIT $1", args...)
	if err != nil {
		return task.Page{}, unavailable(ctx, "list tasks", err)
	}
	tasks, err := pgx.AppendRows(make([]task.Task, 0, f.Limit+1), rows, scan)
	if err != nil {
		return task.Page{}, unavailable(ctx, "list tasks", err)
	}
	if len(tasks) > f.Limit {
		return task.Page{Tasks: tasks[:f.Limit], More: true}, nil
	}
	return task.Page{Tasks: tasks}, nil
}

// settled finds out up to which id no row can appear any more. Each writer has a
// transaction id before it draws the id of an outbox row. So when the sequence
// stood at drawn and after that a transaction id was taken, all rows up to drawn
// belong to transactions with lower ids. When every one of them has ended, all those rows
// are visible or will never be. A transaction that is held open only makes the
// relay look at rows again.
type settled struct {
	id    int64 // settled
	drawn int64 // will be settled
	xid   int64 // once every transaction below it has ended; 0: none is awaited
}

func (g *settled) observe(drawn, xid, oldest int64) int64 {
	if g.xid != 0 && oldest >= g.xid {
		g.id, g.xid = max(g.id, g.drawn), 0
	}
	if g.xid == 0 {
		g.drawn, g.xid = drawn, xid
	}
	return g.id
}

// Next reads the unpublished rows with the lowest ids above after. It is a query
// over what is unpublished, and remembers no id that it has seen.
func (s *Store) Next(ctx context.Context, after int64, limit, bytes int) (page outbox.Page, err error) {
	var drawn, xid, oldest int64
	b := &pgx.Batch{}
	// The order counts, see settled: what is drawn, an id after it, who is left, and the rows last.
	b.Queue(`SELECT last_value - (NOT is_called)::int FROM taskapi.outbox_id`).QueryRow(func(row pgx.Row) error { return row.Scan(&drawn) })
	b.Queue(`SELECT pg_current_xact_id()::text::bigint`).QueryRow(func(row pgx.Row) error { return row.Scan(&xid) })
	b.Queue(`SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).QueryRow(func(row pgx.Row) error { return row.Scan(&oldest) })
	b.Queue(`SELECT o.id, o.task_id::text, o.event FROM taskapi.unpublished u JOIN taskapi.outbox o ON o.id = u.id
		WHERE u.id > $1 ORDER BY u.id LIMIT $2`, after, limit).Query(func(rows pgx.Rows) error {
		for size := 0; rows.Next(); {
			var r outbox.Row
			if err := rows.Scan(&r.ID, &r.TaskID, &r.Event); err != nil {
				return err
			}
			if size += len(r.Event); size > bytes && len(page.Rows) > 0 {
				break
			}
			page.Rows = append(page.Rows, r)
		}
		rows.Close()
		return rows.Err()
	})
	if err := s.writes.SendBatch(ctx, b).Close(); err != nil {
		return outbox.Page{}, unavailable(ctx, "read the outbox", err)
	}
	s.mu.Lock()
	page.Settled = s.settled.observe(drawn, xid, oldest)
	s.mu.Unlock()
	return page, nil
}

// Published marks outbox rows as acknowledged by Kafka.
func (s *Store) Published(ctx context.Context, ids []int64) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	tag, err := s.writes.Exec(ctx, `DELETE FROM taskapi.unpublished WHERE id = ANY($1)`, ids)
	if err != nil {
		return unavailable(ctx, "mark events as published", err)
	}
	s.mu.Lock()
	s.pending.count -= tag.RowsAffected()
	s.mu.Unlock()
	return nil
}

// Backlog reports what waits for Kafka, from all replicas.
func (s *Store) Backlog(ctx context.Context) (b outbox.Backlog, err error) {
	var oldest *time.Time
	err = s.reads.QueryRow(ctx, `SELECT (SELECT count(*) FROM taskapi.unpublished),
		(SELECT o.created_at FROM taskapi.unpublished u JOIN taskapi.outbox o ON o.id = u.id ORDER BY u.id LIMIT 1)`).Scan(&b.Count, &oldest)
	if err != nil {
		return b, unavailable(ctx, "read the outbox", err)
	}
	if oldest != nil {
		b.Oldest = oldest.UTC()
	}
	return b, nil
}
