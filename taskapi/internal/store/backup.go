package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Backup copies the database at path into a new file: one state of it, with every
// change that was answered before, while a taskapi may use it. It takes no lock of
// ours and changes nothing. The file appears whole and on disk, or not at all.
func Backup(ctx context.Context, path, to string) (err error) {
	if _, err := os.Stat(path); err != nil { // SQLite's message would not say which file
		return fmt.Errorf("read the tasks: %w", err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w; name a new file", to, errors.Join(err, fs.ErrExist))
	}
	next := to + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that was killed here
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next) // the error says more
		}
	}()
	// SQLite fills an empty file; one that it made would be readable by others.
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// Closed last: closing any descriptor of a file drops SQLite's locks on it, of
	// which the copy then needs none.
	if err := errors.Join(vacuumInto(ctx, path, next), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	if err := os.Rename(next, to); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// vacuumInto reads within one transaction. Meanwhile the WAL grows, and changes go on.
func vacuumInto(ctx context.Context, path, to string) (err error) {
	db, err := sql.Open("sqlite", dsn(path, "rw"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	var id int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if id != applicationID {
		return errors.New("this is not the database of a taskapi, or it was moved to PostgreSQL")
	}
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	return err
}
