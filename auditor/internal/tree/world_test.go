package tree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// world is a log in memory with its tree in a folder.
type world struct {
	t     *testing.T
	dir   string
	store *Folder
	keys  *Keys
	cfg   Config

	mu    sync.Mutex
	lines [][]byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	store, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	skey, err := NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys([]byte(skey))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, store: store, keys: keys}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	w.cfg = Config{Store: store, Source: w.source, Keys: func() (*Keys, error) { return w.keys, nil },
		Client: client, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Every: time.Millisecond}
	return w
}

func line(n int) []byte { return fmt.Appendf(nil, `{"seq":%d,"event_id":"%x"}`+"\n", n, n*7919) }

func (w *world) source(_ context.Context, after, upTo int64, yield func([32]byte) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := after; n < min(upTo, int64(len(w.lines))); n++ {
		if err := yield(Leaf(w.lines[n])); err != nil {
			return err
		}
	}
	return nil
}

// write makes lines durable without the tree.
func (w *world) write(n int) (first int64, leaves [][32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first = int64(len(w.lines)) + 1
	for range n {
		l := line(len(w.lines) + 1)
		w.lines = append(w.lines, l)
		leaves = append(leaves, Leaf(l))
	}
	return first, leaves
}

// open opens the tree over the lines that are there.
func (w *world) open() (*Log, error) {
	w.mu.Lock()
	w.cfg.Lines = int64(len(w.lines))
	w.mu.Unlock()
	return Open(w.t.Context(), w.cfg)
}

// run opens the tree, appends the batches and closes it.
func (w *world) run(batches ...int) *Log {
	w.t.Helper()
	l, err := w.open()
	if err != nil {
		w.t.Fatal(err)
	}
	w.through(l, func() {
		for _, n := range batches {
			l.Append(w.write(n))
		}
	})
	if err := l.Fault(); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// through runs the tree while do runs.
func (w *world) through(l *Log, do func()) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	do()
	stop()
	wg.Wait()
}

func (w *world) checkpoint() ([]byte, Checkpoint) {
	w.t.Helper()
	signed, err := w.store.Read(w.t.Context(), checkpointPath)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := OpenCheckpoint(signed, w.keys.Verifiers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return signed, c
}

// check is what `auditor verify` does.
func (w *world) check() (*Checker, error) {
	w.t.Helper()
	_, c := w.checkpoint()
	checker := NewChecker(w.t.Context(), w.store, c, false)
	for _, l := range w.lines {
		if err := checker.Add(Leaf(l)); err != nil {
			return checker, err
		}
	}
	return checker, checker.Done()
}

// root is RFC 6962, section 2.1, to the letter.
func root(lines [][]byte) tlog.Hash {
	switch len(lines) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		leaf := sha256.Sum256(lines[0])
		return sha256.Sum256(append([]byte{0}, leaf[:]...))
	}
	k := 1
	for k*2 < len(lines) {
		k *= 2
	}
	left, right := root(lines[:k]), root(lines[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// files lists the paths below tile/ that exist.
func (w *world) files() (all []string) {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.dir, "tile"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(w.dir, name)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return all
}

// overwrite replaces the content of a file of the tree.
func (w *world) overwrite(path string, change func([]byte) []byte) {
	w.t.Helper()
	name := filepath.Join(w.dir, filepath.FromSlash(path))
	data, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, change(data), 0o444); err != nil {
		w.t.Fatal(err)
	}
}

// fullStore fails each write while it is set to.
type fullStore struct {
	Store
	mu    sync.Mutex
	err   error
	fails int
}

func (s *fullStore) set(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.err = err }

func (s *fullStore) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		s.fails++
	}
	return s.err
}

func (s *fullStore) waitFor(t *testing.T, fails int) {
	t.Helper()
	for {
		s.mu.Lock()
		n := s.fails
		s.mu.Unlock()
		if n >= fails {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("no write failed")
		}
	}
}

func (s *fullStore) WriteTile(ctx context.Context, path string, data []byte) error {
	if err := s.failure(); err != nil {
		return err
	}
	return s.Store.WriteTile(ctx, path, data)
}

func (s *fullStore) WriteCheckpoint(ctx context.Context, note []byte) error {
	if err := s.failure(); err != nil {
		return err
	}
	return s.Store.WriteCheckpoint(ctx, note)
}
