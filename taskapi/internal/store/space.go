package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite uses the pages that a purge has freed again and never gives them back by
// itself. In the mode auto_vacuum=INCREMENTAL it does when it is asked, a few
// pages at a time, so that no change waits long.

const (
	vacuumPages = 256  // in one transaction: 1 MiB
	keepPages   = 1024 // stay free, for what comes next
	// smallFile is how many pages in use are rewritten at start without asking: 32 MiB, in less than a second.
	smallFile = 8192
)

// ErrCannotShrink means that the file is from a version that did not give back
// space, and too large to be rewritten at every start that comes.
var ErrCannotShrink = errors.New("the database file cannot shrink; set DATABASE_COMPACT=true for one start, which rewrites it")

// makeShrinkable rewrites a file that was made without auto_vacuum, if that takes
// no time or Compact asks for it. It reports in s.cannotShrink when it has not:
// the store works all the same. A crash leaves the file before or after.
func (s *Store) makeShrinkable(ctx context.Context) error {
	var mode, pages, free int
	for pragma, into := range map[string]*int{"auto_vacuum": &mode, "page_count": &pages, "freelist_count": &free} {
		if err := s.conn.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(into); err != nil {
			return fmt.Errorf("read the size of %s: %w", s.cfg.Path, err)
		}
	}
	if mode == incremental {
		return nil
	}
	// The copy is made in memory or beside the database: there may be no other folder to write to.
	temporary := "PRAGMA temp_store = MEMORY"
	if pages-free > s.cfg.smallFile {
		if !s.cfg.Compact {
			s.cannotShrink = ErrCannotShrink
			return nil
		}
		temporary = "PRAGMA temp_store_directory = '" + strings.ReplaceAll(filepath.Dir(s.cfg.Path), "'", "''") + "'"
	}
	for _, statement := range []string{temporary, "PRAGMA auto_vacuum = INCREMENTAL", "VACUUM", "PRAGMA temp_store = DEFAULT"} {
		_, err := s.conn.ExecContext(ctx, statement)
		if code(err) == sqlite3.SQLITE_FULL {
			s.cannotShrink = fmt.Errorf("the database file cannot shrink: to rewrite it takes as much free space as it uses: %w", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("rewrite %s: %w", s.cfg.Path, err)
		}
	}
	return nil
}

// incremental is SQLite's number of that mode.
const incremental = 2

// CannotShrink reports why the file keeps the space of purged rows, nil when it
// gives it back.
func (s *Store) CannotShrink() error { return s.cannotShrink }

// countSpare counts the pages to give back: those that were free all the time since
// the last purge. What that purge freed and changes have used again since is
// needed, and giving it back would only move pages to and fro.
func (w *writer) countSpare() (int64, error) {
	if w.s.cannotShrink != nil {
		return 0, nil //nolint:nilerr // a file that cannot shrink has no spare pages, and whoever opened it was told
	}
	var row [1]driver.Value
	if _, err := w.freePages.row(row[:]); err != nil {
		return 0, w.failed("read the free pages of", err)
	}
	return max(0, row[0].(int64)-int64(w.s.cfg.keepPages)), nil
}

// giveBack shortens the file by some of the spare pages.
func (t *txn) giveBack() error {
	if err := t.vacuum.exec(); err != nil {
		return err
	}
	t.spare -= vacuumPages
	return nil
}
