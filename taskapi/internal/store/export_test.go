package store

import (
	"database/sql/driver"
	"errors"
)

// BreakCommit makes the nth commit of cfg fail, before or after it happened.
func BreakCommit(cfg Config, nth int, happened bool) Config {
	cfg.commit = func(commit func(...driver.Value) error) error {
		if nth--; nth != 0 {
			return commit()
		}
		if happened {
			return errors.Join(errors.New("disk: input/output error"), commit())
		}
		return errors.New("disk: input/output error")
	}
	return cfg
}

// LimitPages lets the file grow to n pages, as a full disk would.
func LimitPages(cfg Config, n int) Config {
	cfg.maxPages = n
	return cfg
}

// GiveBackAll makes a file keep no free pages, and rewrites none without Compact.
func GiveBackAll(cfg Config) Config {
	cfg.keepPages, cfg.smallFile = 0, 1
	return cfg
}

// Purge purges once, in a store whose Run is not running.
func Purge(s *Store) error {
	return s.conn.Raw(func(c any) error {
		w, err := newWriter(s, c.(driver.Conn))
		if err != nil {
			return err
		}
		for w.purge() != purgeEvery {
		}
		return errors.Join(w.fault, w.close())
	})
}

// ListQueries are the queries of List.
func ListQueries() []string { return []string{listAll, listByStatus, listByOwner, listByBoth} }
