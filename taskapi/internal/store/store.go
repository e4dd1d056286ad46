// Package store keeps tasks, their outbox rows and idempotency keys in one
// SQLite file.
//
// All changes go through one goroutine, Run, which commits the waiting ones in
// one transaction (WAL, synchronous=FULL) and answers only after the commit is
// on disk. The single writer also takes the place of a row lock: the version of
// a task, the ids of outbox rows and the times of changes are assigned there, so
// they are in commit order. Reads use a pool of their own and see every change
// that was answered.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/taskwire/taskwire/internal/ownfile"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// The page caches of the connections in KiB, and what all of them take at most.
const (
	writerCache = 32000
	readerCache = 8000
	readers     = 4

	CacheBytes = (writerCache + (readers+1)*readerCache) << 10
)

// Config is the settings of a store.
type Config struct {
	Path string
	// OutboxLimit is how many events may wait for Kafka. Beyond it changes are
	// refused with a *task.BusyError, so that the disk does not fill. 0: 1,000,000.
	OutboxLimit int64
	// Retention is how long the row of a published event is kept. 0: 1 h.
	Retention time.Duration
	// Compact rewrites a file that cannot shrink when it is opened, however large
	// it is; see Store.CannotShrink. Changes wait meanwhile.
	Compact bool
	// Signer signs each event in its transaction; nil for none.
	Signer record.Signer
	// DataSchema is the dataschema of each event; "" for none.
	DataSchema string
	// Now is the clock; nil for time.Now.
	Now func() time.Time

	// commit wraps the COMMIT of each transaction; tests break it.
	commit func(commit func(...driver.Value) error) error
	// maxPages limits the file; tests fill it. 0 is SQLite's own limit.
	maxPages int
	// keepPages and smallFile are the constants of space.go; tests lower them.
	keepPages, smallFile int
}

// Store is a task.Store and an outbox.Source.
type Store struct {
	cfg     Config
	lock    *os.File
	db      *sql.DB   // holds conn only
	conn    *sql.Conn // used by Run only
	reads   *sql.DB
	relay   *sql.DB // one connection: lists that take long do not delay events
	queries queries

	jobs    chan *job
	free    sync.Pool     // of *job that nobody else refers to
	stopped chan struct{} // closed when Run returns: nothing is answered after that
	wake    chan struct{}
	pending atomic.Int64 // written by Run only
	latest  latest
	writing atomic.Int64 // start of the current transaction in Unix nanoseconds; 0: there is none

	cannotShrink error // see CannotShrink

	last     int64 // time of the last change in microseconds; owned by Run
	outboxID int64 // of the last outbox row; owned by Run
}

var (
	_ task.Store    = (*Store)(nil)
	_ outbox.Source = (*Store)(nil)
)

// Open opens or creates the database and takes its lock. Nothing is answered
// before Run runs.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{
		cfg:     withDefaults(cfg),
		jobs:    make(chan *job, 256),
		stopped: make(chan struct{}),
		wake:    make(chan struct{}, 1),
	}
	s.free.New = func() any { return &job{done: make(chan error, 1)} }
	// SQLite follows links and asks nobody who else may write.
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := ownfile.Check(s.cfg.Path + suffix); err != nil {
			return nil, err
		}
	}
	// One file must have one lock, by whatever path its folder is named.
	if real, err := filepath.EvalSymlinks(s.cfg.Path); err == nil {
		s.cfg.Path = real
	}
	if s.lock, err = lock(s.cfg.Path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := private(s.cfg.Path); err != nil {
		return nil, err
	}
	if err := s.openWriter(ctx); err != nil {
		return nil, explain(s.cfg.Path, err)
	}
	return s, s.openReads(ctx)
}

// explain adds the system's error to SQLite's, whose "unable to open database
// file" may mean a full disk or missing permissions. To find out, it creates a
// file beside the database, as SQLite does for the WAL.
func explain(path string, err error) error {
	switch code(err) {
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR:
	default:
		return err
	}
	name := path + ".probe"
	if cause := probe(name); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

func probe(name string) error {
	_ = os.Remove(name) // of a process that was killed here
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 64<<10))
	return errors.Join(err, f.Close(), os.Remove(name))
}

func withDefaults(cfg Config) Config {
	if cfg.OutboxLimit == 0 {
		cfg.OutboxLimit = 1_000_000
	}
	if cfg.Retention == 0 {
		cfg.Retention = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.smallFile == 0 {
		cfg.keepPages, cfg.smallFile = keepPages, smallFile
	}
	if cfg.commit == nil {
		cfg.commit = func(commit func(...driver.Value) error) error { return commit() }
	}
	return cfg
}

// dsn names the file and the pragmas that each connection starts with.
func dsn(path, mode string, pragmas ...string) string {
	q := url.Values{"mode": {mode}, "_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

func (s *Store) openWriter(ctx context.Context) (err error) {
	// fullfsync makes macOS write through the disk's cache, as Linux always does.
	// auto_vacuum comes first: it has to be chosen before the file has a page.
	s.db, err = sql.Open("sqlite", dsn(s.cfg.Path, "rwc", "auto_vacuum(INCREMENTAL)", "journal_mode(WAL)", "synchronous(FULL)",
		"fullfsync(1)", "checkpoint_fullfsync(1)", "wal_autocheckpoint(4000)", fmt.Sprintf("cache_size(-%d)", writerCache),
		fmt.Sprintf("max_page_count(%d)", cmp.Or(s.cfg.maxPages, 1<<32-2))))
	if err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Path, err)
	}
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Path, err)
	}
	if err := checkDurability(ctx, s.conn); err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Path, err)
	}
	if err := migrate(ctx, s.conn, s.cfg.Path); err != nil {
		return err
	}
	if err := s.makeShrinkable(ctx); err != nil {
		return err
	}
	var pending int64
	err = s.conn.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM unpublished), (SELECT coalesce(max(id), 0) FROM outbox)`).Scan(&pending, &s.outboxID)
	if err != nil {
		return fmt.Errorf("read the outbox of %s: %w", s.cfg.Path, err)
	}
	s.pending.Store(pending)
	s.latest.begin(s.outboxID, pending)
	return nil
}

// checkDurability reads the pragmas back: on a file system without support for
// WAL, SQLite reports another mode and no error.
func checkDurability(ctx context.Context, conn *sql.Conn) error {
	var journal string
	var synchronous int
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous); err != nil {
		return err
	}
	if journal != "wal" || synchronous != 2 {
		return fmt.Errorf("journal mode is %s with synchronous %d, want wal with 2 (FULL): this file system cannot keep what is acknowledged", journal, synchronous)
	}
	return nil
}

// Close releases the files and the lock. Run must have returned.
func (s *Store) Close() error {
	var errs []error
	errs = append(errs, s.queries.close())
	for _, reads := range []*sql.DB{s.reads, s.relay} {
		if reads != nil {
			errs = append(errs, reads.Close())
		}
	}
	// The writer is closed last: the last connection copies the WAL into the file.
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Wake delivers after a commit that wrote outbox rows.
func (s *Store) Wake() <-chan struct{} { return s.wake }

// stuck is how long a transaction may take before the writer counts as hung.
const stuck = 30 * time.Second

// Check reports whether changes make progress.
func (s *Store) Check() error {
	if since := s.writing.Load(); since != 0 && time.Since(time.Unix(0, since)) > stuck {
		return fmt.Errorf("a write has taken more than %v; the disk does not respond", stuck)
	}
	select {
	case <-s.stopped:
		return errors.New("the writer has stopped")
	default:
		return nil
	}
}
