package index

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrStopped: Stop came during a wait.
var ErrStopped = errors.New("the index is being closed")

// Config is what the index needs of its owner.
type Config struct {
	// HasRoom reports whether the disk has room again after it was full.
	HasRoom func() bool

	// Changed is called when Full or Failure begin or end to say something. It must
	// not call the index.
	Changed func()

	// Unsynced leaves it to the system when files reach the disk. It is for tests
	// that open thousands of indexes.
	Unsynced bool
}

// store is how Pebble is used here: small, silent, and patient. Pebble
// expects its process to end when the disk is full; this one waits instead, since
// the log answers 503 meanwhile and goes on by itself.
type store struct {
	cache     *pebble.Cache
	stopping  chan struct{}
	stopOnce  sync.Once
	opened    atomic.Bool
	compacted chan struct{} // signalled after each compaction

	cfg Config

	mu      sync.Mutex
	err     error // the first error after which the index is not believed
	waiting bool  // for room
}

func newStore(cfg Config) *store {
	return &store{stopping: make(chan struct{}), compacted: make(chan struct{}, 1), cfg: cfg}
}

// The memory of the index does not grow with the log: blocks that were read, and
// twice what is written before it is flushed.
const (
	cacheSize    = 12 << 20 // the memtables are taken from it
	memTableSize = 2 << 20
	flushEvery   = 7 << 17 // bytes of batches; they take about twice as much in a memtable
)

func (s *store) open(dir string) (*pebble.DB, error) {
	s.cache = pebble.NewCache(cacheSize)
	o := &pebble.Options{
		FS:                          vfs.OnDiskFull(s.fs(), func() { s.awaitRoom() }),
		Cache:                       s.cache,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      s,
		MaxManifestFileSize:         1 << 20,
		MaxOpenFiles:                256,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: 8,    // never reached: see Index.pace
		L0StopWritesThreshold:       1000, // the same
		LBaseMaxBytes:               4 << 20,
		EventListener: &pebble.EventListener{
			CompactionEnd: func(pebble.CompactionInfo) {
				select {
				case s.compacted <- struct{}{}:
				default:
				}
			},
			BackgroundError: s.fail,
			DataCorruption:  func(info pebble.DataCorruptionInfo) { s.fail(info.Details) },
		},
	}
	o.EnsureDefaults()
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most ids that are looked for are new
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = 2 << 20
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		s.cache.Unref()
		return nil, err
	}
	s.opened.Store(true)
	return db, nil
}

// awaitRoom returns when there is room, or the index is being closed. The store
// tries once more after it.
func (s *store) awaitRoom() {
	if !s.opened.Load() {
		return // whoever opens the log decides what to do about the volume
	}
	s.setWaiting(true)
	defer s.setWaiting(false)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !s.cfg.HasRoom() {
		select {
		case <-tick.C:
		case <-s.stopping:
			return
		}
	}
}

func (s *store) setWaiting(waiting bool) {
	s.mu.Lock()
	s.waiting = waiting
	s.mu.Unlock()
	s.cfg.Changed()
}

// full reports whether the index waits for room.
func (s *store) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// await waits for a flush.
func (s *store) await(done <-chan struct{}) error {
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-s.stopping:
		return ErrStopped
	}
}

// awaitCompaction waits while too many flushes are not merged: each is looked
// through for every id.
func (s *store) awaitCompaction(db *pebble.DB) error {
	for db.Metrics().Levels[0].Sublevels > 16 {
		select {
		case <-s.compacted:
		case <-s.stopping:
			return ErrStopped
		}
	}
	return nil
}

// stop ends every wait.
func (s *store) stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

func (s *store) fail(err error) {
	s.mu.Lock()
	first := s.err == nil && !s.stopped()
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		s.cfg.Changed()
	}
}

// stopped reports whether errors are only those of a wait that was ended.
func (s *store) stopped() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

func (s *store) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Infof, Errorf and Fatalf are the store's own log.
func (s *store) Infof(string, ...any) {}

func (s *store) Errorf(format string, args ...any) {
	slog.Warn("index of the audit log", "err", fmt.Sprintf(format, args...))
}

// Fatalf is called after an error from which the store cannot continue; it goes
// on with an error of its own.
func (s *store) Fatalf(format string, args ...any) { s.fail(fmt.Errorf(format, args...)) }

// disk is replaced by tests.
var disk = vfs.Default

func (s *store) fs() vfs.FS {
	if s.cfg.Unsynced {
		return unsyncedFS{disk}
	}
	return disk
}

type unsyncedFS struct{ vfs.FS }

func (fs unsyncedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return unsyncedFile{f}, err
}

func (fs unsyncedFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error                { return nil }
func (unsyncedFile) SyncData() error            { return nil }
func (unsyncedFile) SyncTo(int64) (bool, error) { return false, nil }
