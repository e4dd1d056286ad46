package tree

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestRoots compares the root of each size with the definition in the RFC.
func TestRoots(t *testing.T) {
	var e Edge
	var lines [][]byte
	for n := range 700 {
		if got := e.Tree(); got.N != int64(n) || got.Hash != root(lines) {
			t.Fatalf("%d lines: root %v of %d", n, got.Hash, got.N)
		}
		lines = append(lines, line(n+1))
		e.Append(Leaf(lines[n]))
	}
}

func TestAppendDoesNotAllocatePerLeaf(t *testing.T) {
	var e Edge
	leaf := Leaf(line(1))
	for range 300 {
		e.Append(leaf)
	}
	if n := testing.AllocsPerRun(10, func() {
		for range 256 {
			e.Append(leaf)
		}
	}); n > 26 {
		t.Errorf("%v allocations for 256 leaves, want those of two tiles", n)
	}
}

// TestPublished: whatever the batches are, what is on disk afterwards is a log that
// a client can read: checkpoint, tiles, entries and each proof.
func TestPublished(t *testing.T) {
	for _, batches := range [][]int{{}, {1}, {255}, {256}, {257}, {1, 2, 3}, {700}, {256, 256, 1}, {100, 156, 300}, {66000}} {
		w := newWorld(t)
		w.run(batches...)
		w.run() // and again, from the tiles
		signed, c := w.checkpoint()
		if c.N != int64(len(w.lines)) || len(w.lines) < 1000 && c.Hash != root(w.lines) {
			t.Fatalf("%v: checkpoint of %d lines with root %v", batches, c.N, c.Hash)
		}
		if checker, err := w.check(); err != nil || len(checker.Tiles()) > 0 {
			t.Fatalf("%v: %v, tiles %v", batches, err, checker.Tiles())
		}
		for n := int64(1); n <= c.N; n += 1 + c.N/50 {
			p, err := Prove(t.Context(), w.store, signed, c, n)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseProof(p.String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Verify(w.lines[n-1], w.keys.Verifiers...); err != nil {
				t.Errorf("%v: line %d: %v", batches, n, err)
			}
			if _, err := again.Verify(line(int(n)+1), w.keys.Verifiers...); err == nil {
				t.Errorf("%v: the proof of line %d proves another line", batches, n)
			}
		}
	}
}

func TestFullTilesReplacePartialOnes(t *testing.T) {
	w := newWorld(t)
	for range 30 {
		w.run(10)
	}
	var want []string
	for _, at := range []string{"tile/0/001.p/", "tile/entries/001.p/"} {
		for n := 260; n <= 300; n += 10 {
			want = append(want, at+strings.TrimLeft(tlog.Tile{H: 8, W: n - 256}.Path()[len("tile/8/0/000.p/"):], "/"))
		}
	}
	want = append(want, "tile/0/000", "tile/entries/000", "tile/1/000.p/1")
	got := w.files()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("files\n%q, want\n%q", got, want)
	}
	info, err := os.Stat(filepath.Join(w.dir, "tile/0/000"))
	if err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("a tile has mode %v (%v), want 0444", info.Mode(), err)
	}
}

func TestTilesAreImmutable(t *testing.T) {
	w := newWorld(t)
	w.run(300)
	tile := newTile(0, 0, Width, bytes.Repeat([]byte{1}, Width*tlog.HashSize))
	var damage *DamageError
	if err := writeTile(t.Context(), w.store, tile); !errors.As(err, &damage) || damage.Line != 1 {
		t.Errorf("another tile in place of tile/0/000: %v", err)
	}
	data, err := w.store.Read(t.Context(), "tile/0/000")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeTile(t.Context(), w.store, newTile(0, 0, Width, data)); err != nil {
		t.Errorf("the same tile again: %v", err)
	}
}

// TestBehind: leaves that were not handed over are read from the log.
func TestBehind(t *testing.T) {
	w := newWorld(t)
	w.write(1000) // a log that had no tree
	l, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	w.through(l, func() {
		w.write(50) // lost on the way
		l.Append(w.write(7))
		for c := range w.published(l, 1057) {
			if c.N == 1057 {
				break
			}
		}
	})
	if _, err := w.check(); err != nil {
		t.Error(err)
	}
}

// published yields the checkpoints until one covers the line.
func (w *world) published(l *Log, upTo int64) func(yield func(Checkpoint) bool) {
	return func(yield func(Checkpoint) bool) {
		for {
			p, changed := l.current()
			if !yield(p.Checkpoint) {
				return
			}
			if p.N >= upTo {
				return
			}
			select {
			case <-changed:
			case <-l.Failed():
				w.t.Fatal(l.Fault())
			case <-w.t.Context().Done():
				w.t.Fatal("no checkpoint")
			}
		}
	}
}

// TestKilled starts from every set of effects that a crash may leave: the tiles that
// are not synced may be lost, short or zeros, the checkpoint may be an older one.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.run(200)
	old, _ := w.checkpoint()
	w.run(400)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		files := w.files()
		for _, path := range files {
			switch random.IntN(5) {
			case 0:
				if err := os.Remove(filepath.Join(w.dir, path)); err != nil {
					t.Fatal(err)
				}
			case 1:
				w.overwrite(path, func(b []byte) []byte { return b[:random.IntN(len(b))] })
			case 2:
				w.overwrite(path, func(b []byte) []byte { return make([]byte, len(b)) })
			}
		}
		if round%2 == 0 {
			if err := w.store.WriteCheckpoint(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		l := w.run(1)
		// The background check mends what the start did not look at.
		_, c := l.Checkpoint()
		checker := NewChecker(t.Context(), w.store, c, true)
		for _, line := range w.lines {
			if err := checker.Add(Leaf(line)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if checker, err := w.check(); err != nil || len(checker.Tiles()) > 0 {
			t.Fatalf("round %d: %v, tiles %v", round, err, checker.Tiles())
		}
	}
}

func TestProveWaits(t *testing.T) {
	w := newWorld(t)
	w.run(5)
	l, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	w.through(l, func() {
		l.Append(w.write(1))
		p, err := l.Prove(t.Context(), 6)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(w.lines[5], w.keys.Verifiers...); err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Prove(ended, 7); !errors.Is(err, context.Canceled) {
			t.Errorf("proof of a line that is not there: %v", err)
		}
	})
}
