package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const columns = "id, title, status, coalesce(owner_id, ''), version, created_at, updated_at"

// queries are prepared once; database/sql prepares them again for each
// connection of the pool that needs them.
type queries struct {
	get      *sql.Stmt
	all      *sql.Stmt
	byStatus *sql.Stmt
	byOwner  *sql.Stmt
	byBoth   *sql.Stmt
	next     *sql.Stmt
	oldest   *sql.Stmt
}

// The lists. By owner merges the tasks of each status, which one index has in order.
const (
	listAll      = `SELECT ` + columns + ` FROM task WHERE id > ? ORDER BY id LIMIT ?`
	listByStatus = `SELECT ` + columns + ` FROM task WHERE status = ? AND id > ? ORDER BY id LIMIT ?`
	listByBoth   = `SELECT ` + columns + ` FROM task WHERE owner_id = ? AND status = ? AND id > ? ORDER BY id LIMIT ?`
	listByOwner  = `SELECT ` + columns + ` FROM task WHERE owner_id = ?1 AND status = 'completed' AND id > ?2 UNION ALL
		SELECT ` + columns + ` FROM task WHERE owner_id = ?1 AND status = 'in_progress' AND id > ?2 UNION ALL
		SELECT ` + columns + ` FROM task WHERE owner_id = ?1 AND status = 'pending' AND id > ?2 ORDER BY id LIMIT ?3`
)

func (s *Store) openReads(ctx context.Context) (err error) {
	if s.reads, err = s.openReader(readers); err != nil {
		return err
	}
	if s.relay, err = s.openReader(1); err != nil {
		return err
	}
	q := &s.queries
	for _, p := range []struct {
		into *(*sql.Stmt)
		db   *sql.DB
		text string
	}{
		{&q.get, s.reads, `SELECT ` + columns + ` FROM task WHERE id = ?`},
		{&q.all, s.reads, listAll},
		{&q.byStatus, s.reads, listByStatus},
		{&q.byOwner, s.reads, listByOwner},
		{&q.byBoth, s.reads, listByBoth},
		{&q.next, s.relay, `SELECT o.id, o.task_id, o.event FROM unpublished u JOIN outbox o ON o.id = u.id WHERE u.id > ? ORDER BY u.id LIMIT ?`},
		{&q.oldest, s.reads, `SELECT created_at FROM outbox WHERE id = (SELECT min(id) FROM unpublished)`},
	} {
		if *p.into, err = p.db.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // kept for the life of the store, closed by queries.close
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
	}
	return nil
}

func (s *Store) openReader(connections int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(s.cfg.Path, "ro", "query_only(1)", fmt.Sprintf("cache_size(-%d)", readerCache)))
	if err != nil {
		return nil, fmt.Errorf("open %s for reading: %w", s.cfg.Path, err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

func (q *queries) close() error {
	var errs []error
	for _, stmt := range []*sql.Stmt{q.get, q.all, q.byStatus, q.byOwner, q.byBoth, q.next, q.oldest} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	return errors.Join(errs...)
}

func scan(row interface{ Scan(...any) error }) (task.Task, error) {
	var t task.Task
	var created, updated int64
	err := row.Scan(&t.ID, &t.Title, &t.Status, &t.OwnerID, &t.Version, &created, &updated)
	t.CreatedAt, t.UpdatedAt = fromMicros(created), fromMicros(updated)
	return t, err
}

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// unavailable keeps the cause for the log and makes it a task.ErrUnavailable,
// unless the caller itself has gone.
func unavailable(doing string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %w: %w", doing, task.ErrUnavailable, outOfFiles(err))
}

// outOfFiles adds the cause that SQLite's "unable to open database file" hides.
func outOfFiles(err error) error {
	if code(err) != sqlite3.SQLITE_CANTOPEN {
		return err
	}
	f, cause := os.Open(os.DevNull)
	if errors.Is(cause, syscall.EMFILE) || errors.Is(cause, syscall.ENFILE) {
		return fmt.Errorf("%w; raise the limit (ulimit -n): %w", syscall.EMFILE, err)
	}
	if cause == nil {
		_ = f.Close()
	}
	return err
}

// Get reads one task.
func (s *Store) Get(ctx context.Context, id string) (task.Task, error) {
	t, err := scan(s.queries.get.QueryRowContext(ctx, id))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return task.Task{}, task.ErrNotFound
	case err != nil:
		return task.Task{}, unavailable("read a task", err)
	}
	return t, nil
}

// List reads one page, oldest first: ids are in the order of creation.
func (s *Store) List(ctx context.Context, f task.Filter) (task.Page, error) {
	rows, err := s.list(ctx, f, f.Limit+1) // one more shows whether the list goes on
	if err != nil {
		return task.Page{}, unavailable("list tasks", err)
	}
	defer rows.Close()
	page := task.Page{Tasks: []task.Task{}}
	for rows.Next() {
		t, err := scan(rows)
		if err != nil {
			return task.Page{}, unavailable("list tasks", err)
		}
		if len(page.Tasks) == f.Limit {
			page.More = true
			break
		}
		page.Tasks = append(page.Tasks, t)
	}
	if err := rows.Err(); err != nil {
		return task.Page{}, unavailable("list tasks", err)
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, f task.Filter, limit int) (*sql.Rows, error) {
	switch {
	case f.Status != "" && f.OwnerID != "":
		return s.queries.byBoth.QueryContext(ctx, f.OwnerID, f.Status, f.After, limit)
	case f.Status != "":
		return s.queries.byStatus.QueryContext(ctx, f.Status, f.After, limit)
	case f.OwnerID != "":
		return s.queries.byOwner.QueryContext(ctx, f.OwnerID, f.After, limit)
	}
	return s.queries.all.QueryContext(ctx, f.After, limit)
}

// Next reads the unpublished rows with the lowest ids above after. It is a query
// over what is unpublished, and remembers no id that it has seen. All rows are
// settled: there is one writer, so ids are in commit order.
func (s *Store) Next(ctx context.Context, after int64, limit, bytes int) (page outbox.Page, err error) {
	if s.pending.Load() == 0 {
		return page, nil
	}
	if page, ok := s.latest.next(after, limit, bytes); ok {
		return page, nil
	}
	return s.nextOnDisk(ctx, after, limit, bytes)
}

func (s *Store) nextOnDisk(ctx context.Context, after int64, limit, bytes int) (page outbox.Page, err error) {
	rows, err := s.queries.next.QueryContext(ctx, after, limit)
	if err != nil {
		return page, unavailable("read the outbox", err)
	}
	defer rows.Close()
	for size := 0; rows.Next(); {
		var r outbox.Row
		if err := rows.Scan(&r.ID, &r.TaskID, &r.Event); err != nil {
			return outbox.Page{}, unavailable("read the outbox", err)
		}
		if size += len(r.Event); size > bytes && len(page.Rows) > 0 {
			break
		}
		page.Rows, page.Settled = append(page.Rows, r), r.ID
	}
	if err := rows.Err(); err != nil {
		return outbox.Page{}, unavailable("read the outbox", err)
	}
	return page, nil
}

// Backlog reports what waits for Kafka.
func (s *Store) Backlog(ctx context.Context) (outbox.Backlog, error) {
	b := outbox.Backlog{Count: s.pending.Load()}
	var created int64
	err := s.queries.oldest.QueryRowContext(ctx).Scan(&created)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return b, nil
	case err != nil:
		return b, unavailable("read the outbox", err)
	}
	b.Oldest = fromMicros(created)
	return b, nil
}
