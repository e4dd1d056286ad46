package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// movedID marks a file whose contents are in another database now. Two stores that
// both took changes would give out the same versions.
const movedID = 0x6d6f7665 // "move"

// errMoved is what the next user of such a file gets.
func errMoved(path string) error {
	return fmt.Errorf("%s was moved by taskapi migrate; set DATABASE_URL to the database it was moved to", path)
}

// Contents reads everything from a store whose Run is not running.
func (s *Store) Contents(ctx context.Context) (c record.Contents, err error) {
	c.Tasks = every(ctx, s, `SELECT `+columns+` FROM task ORDER BY id`, func(row *sql.Rows) (task.Task, error) { return scan(row) })
	c.Events = every(ctx, s, `SELECT o.id, o.task_id, o.event, o.created_at, u.id IS NOT NULL FROM outbox o LEFT JOIN unpublished u ON u.id = o.id ORDER BY o.id`,
		func(row *sql.Rows) (e record.Stored, err error) {
			var at int64
			err = row.Scan(&e.ID, &e.TaskID, &e.Event, &at, &e.Waiting)
			e.At = fromMicros(at)
			return e, err
		})
	c.Keys = every(ctx, s, `SELECT key, fingerprint, answer, created_at FROM idempotency`, func(row *sql.Rows) (k record.Key, err error) {
		var at int64
		err = row.Scan(&k.Value, &k.Fingerprint, &k.Answer, &at)
		k.At = fromMicros(at)
		return k, err
	})
	c.Fingerprint, err = fingerprint(c)
	return c, err
}

// fingerprint reads everything: two files may hold equally much.
func fingerprint(c record.Contents) (string, error) {
	h := sha256.New()
	for t, err := range c.Tasks {
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d %d\n", t.ID, t.Version, t.UpdatedAt.UnixMicro()) // each version has one content
	}
	for e, err := range c.Events {
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d %t %s\n", e.ID, e.Waiting, e.Event)
	}
	for k, err := range c.Keys {
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %s\n", k.Value, k.Answer)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// every reads the rows of a query one by one.
func every[T any](ctx context.Context, s *Store, query string, read func(*sql.Rows) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := s.reads.QueryContext(ctx, query)
		if err != nil {
			yield(none, fmt.Errorf("read %s: %w", s.cfg.Path, err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			v, err := read(rows)
			if !yield(v, err) || err != nil {
				return
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			yield(none, fmt.Errorf("read %s: %w", s.cfg.Path, err))
		}
	}
}

// MarkMoved makes the file refuse to be opened from now on. Nothing in it changes
// beside that mark.
func (s *Store) MarkMoved(ctx context.Context) error {
	if _, err := s.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", movedID)); err != nil {
		return fmt.Errorf("mark %s as moved: %w", s.cfg.Path, err)
	}
	return nil
}
