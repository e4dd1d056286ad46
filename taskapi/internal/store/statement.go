package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// writer is the state of Run: the one connection that writes and its
// statements. It uses the driver directly: with one goroutine and one
// connection, the pool of database/sql would only cost time.
type writer struct {
	s     *Store
	fault error // why the file can no longer be trusted; set once
	all   []*statement

	purging bool  // a purge is under way
	spare   int64 // pages that it has still to give back

	begin, end, rollback      *statement
	getTask, newTask, setTask *statement
	newEvent, newUnpublished  *statement
	deletePublished           *statement
	getKey, setKey            *statement
	purgeOutbox, purgeKeys    *statement
	freePages, vacuum         *statement
}

func newWriter(s *Store, conn driver.Conn) (*writer, error) {
	w := &writer{s: s}
	for _, p := range []struct {
		into **statement
		text string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.end, `COMMIT`},
		{&w.rollback, `ROLLBACK`},
		{&w.getTask, `SELECT ` + columns + ` FROM task WHERE id = ?`},
		{&w.newTask, `INSERT INTO task (id, title, status, owner_id, version, created_at, updated_at) VALUES (?, ?, ?, nullif(?, ''), ?, ?, ?)`},
		{&w.setTask, `UPDATE task SET title = ?, status = ?, owner_id = nullif(?, ''), version = ?, updated_at = ? WHERE id = ?`},
		{&w.newEvent, `INSERT INTO outbox (id, task_id, event, created_at) VALUES (?, ?, ?, ?)`},
		// OR FAIL: a conflict ends the transaction anyway, so SQLite need not keep a journal of this statement.
		{&w.newUnpublished, `INSERT OR FAIL INTO unpublished (id) SELECT id FROM outbox WHERE id > ?`},
		{&w.deletePublished, `DELETE FROM unpublished WHERE id BETWEEN ? AND ?`},
		{&w.getKey, `SELECT fingerprint, answer, created_at FROM idempotency WHERE key = ?`},
		{&w.setKey, `INSERT OR REPLACE INTO idempotency (key, fingerprint, answer, created_at) VALUES (?, ?, ?, ?)`},
		// Rows below the first unpublished one are all published. The newest row
		// stays, so that ids are never drawn twice.
		{&w.purgeOutbox, `DELETE FROM outbox WHERE id IN (SELECT id FROM outbox
			WHERE id < coalesce((SELECT min(id) FROM unpublished), (SELECT max(id) FROM outbox)) AND created_at < ? ORDER BY id LIMIT ?)`},
		{&w.purgeKeys, `DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE created_at < ? LIMIT ?)`},
		{&w.freePages, `PRAGMA freelist_count`},
		{&w.vacuum, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, vacuumPages)},
	} {
		stmt, err := conn.Prepare(p.text)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("prepare %q: %w", p.text, err), w.close())
		}
		*p.into = &statement{stmt: stmt.(contextStmt)}
		w.all = append(w.all, *p.into)
	}
	return w, nil
}

func (w *writer) close() error {
	var errs []error
	for _, s := range w.all {
		errs = append(errs, s.stmt.Close())
	}
	return errors.Join(errs...)
}

type contextStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// statement is a prepared statement of the writer's connection. Its errors
// are *brokenError: the transaction cannot go on.
type statement struct {
	stmt contextStmt
	args []driver.NamedValue // reused by every call
}

func (s *statement) bind(args []driver.Value) []driver.NamedValue {
	s.args = s.args[:0]
	for i, a := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return s.args
}

func (s *statement) exec(args ...driver.Value) error {
	_, err := s.change(args...)
	return err
}

// change is exec that returns the number of changed rows.
func (s *statement) change(args ...driver.Value) (int64, error) {
	res, err := s.stmt.ExecContext(context.Background(), s.bind(args))
	if err != nil {
		return 0, &brokenError{err}
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, &brokenError{err}
	}
	return n, nil
}

// row reads the only row into dest; false means that there is none.
func (s *statement) row(dest []driver.Value, args ...driver.Value) (bool, error) {
	rows, err := s.stmt.QueryContext(context.Background(), s.bind(args))
	if err != nil {
		return false, &brokenError{err}
	}
	err = rows.Next(dest)
	closeErr := rows.Close()
	switch {
	case errors.Is(err, io.EOF) && closeErr == nil:
		return false, nil
	case err != nil:
		return false, &brokenError{errors.Join(err, closeErr)}
	case closeErr != nil:
		return false, &brokenError{closeErr}
	}
	return true, nil
}
