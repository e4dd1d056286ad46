package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// planted is one way to change a log, and what must be said about it.
type planted struct {
	name  string
	do    func(lines [][]byte, at int) [][]byte // at counts from 0
	says  string
	first func(at int) int // the first bad line, from 1
}

func same(at int) int { return at + 1 }

var damages = []planted{
	{"edit", func(l [][]byte, at int) [][]byte {
		l[at] = bytes.Replace(l[at], []byte("seq"), []byte("sec"), 1)
		return l
	}, "altered or replaced", same},
	{"delete", func(l [][]byte, at int) [][]byte { return slices.Delete(l, at, at+1) }, "1 line is missing", same},
	{"delete three", func(l [][]byte, at int) [][]byte { return slices.Delete(l, at, at+3) }, "3 lines are missing", same},
	{"insert", func(l [][]byte, at int) [][]byte { return slices.Insert(l, at, []byte("new\n")) }, "1 line was inserted", same},
	{"repeat", func(l [][]byte, at int) [][]byte { return slices.Insert(l, at, l[at-1]) }, "1 line was inserted", same},
	{"swap", func(l [][]byte, at int) [][]byte { l[at], l[at+1] = l[at+1], l[at]; return l }, "another order: 2 of", same},
	{"cut", func(l [][]byte, at int) [][]byte { return l[:at] }, "are cut off", same},
	{"reverse", func(l [][]byte, _ int) [][]byte { slices.Reverse(l); return l }, "", func(int) int { return 1 }},
}

// TestPlantedDamage: each change of the log is found, at its first line.
func TestPlantedDamage(t *testing.T) {
	for _, size := range []int{20, 256, 700, 1030} {
		w := newWorld(t)
		w.run(size)
		good := slices.Clone(w.lines)
		for _, d := range damages {
			for _, at := range []int{1, 7, size / 2, size - 10, size - 4} {
				w.lines = d.do(slices.Clone(good), at)
				_, err := w.check()
				var damage *DamageError
				if !errors.As(err, &damage) || damage.Line != int64(d.first(at)) || !strings.Contains(err.Error(), d.says) {
					t.Errorf("%d lines, %s at line %d: %v", size, d.name, at+1, err)
				}
			}
		}
	}
}

// TestRefusedAtStart: what the last tiles show is refused before anything is served.
func TestRefusedAtStart(t *testing.T) {
	for _, size := range []int{20, 256, 700} {
		w := newWorld(t)
		w.run(size)
		good := slices.Clone(w.lines)
		for _, d := range damages {
			at := size - 10
			w.lines = d.do(slices.Clone(good), at)
			_, err := w.open()
			var damage *DamageError
			if !errors.As(err, &damage) {
				t.Errorf("%d lines, %s at line %d: opened (%v)", size, d.name, at+1, err)
			}
		}
		w.lines = good
		if _, err := w.open(); err != nil {
			t.Errorf("the log itself: %v", err)
		}
	}
}

// TestAlteredWithoutTiles: when the tiles are gone the root still tells.
func TestAlteredWithoutTiles(t *testing.T) {
	w := newWorld(t)
	w.run(700)
	w.lines[5] = line(6000)
	if err := os.RemoveAll(filepath.Join(w.dir, "tile")); err != nil {
		t.Fatal(err)
	}
	_, err := w.open()
	var damage *DamageError
	if !errors.As(err, &damage) || damage.Line != 0 || !strings.Contains(err.Error(), "lines 1 to 700") {
		t.Errorf("opened: %v", err)
	}
}

// TestTileAlteredToo: a line and its tiles, changed to agree with each other.
func TestTileAlteredToo(t *testing.T) {
	w := newWorld(t)
	w.run(700)
	other := newWorld(t)
	other.write(700)
	other.lines[300] = line(99)
	l, err := other.open()
	if err != nil {
		t.Fatal(err)
	}
	other.through(l, func() {})
	w.lines[300] = line(99)
	for _, path := range []string{"tile/0/001", "tile/entries/001"} {
		data, err := other.store.Read(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		w.overwrite(path, func([]byte) []byte { return data })
	}
	_, err = w.check()
	var damage *DamageError
	if !errors.As(err, &damage) || damage.Line != 257 || !strings.Contains(err.Error(), "lines 257 to 512") {
		t.Errorf("verified: %v", err)
	}
}

// TestTilesAltered: the lines are right, so the root says that the tile is wrong.
func TestTilesAltered(t *testing.T) {
	for _, size := range []int{700, 66000} {
		w := newWorld(t)
		w.run(size)
		files := w.files()
		if len(files) > 20 {
			files = append(files[:5], "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/100", "tile/entries/257.p/208")
		}
		for _, path := range files {
			before, err := w.store.Read(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			w.overwrite(path, func(b []byte) []byte { b[len(b)/3] ^= 1; return b })
			checker, err := w.check()
			if err != nil || len(checker.Tiles()) != 1 || checker.Tiles()[0].Path != path {
				t.Errorf("%d lines, %s altered: %v, tiles %v", size, path, err, checker.Tiles())
			}
			_, c := w.checkpoint()
			mend := NewChecker(t.Context(), w.store, c, true)
			for _, l := range w.lines {
				if err := mend.Add(Leaf(l)); err != nil {
					t.Fatal(err)
				}
			}
			if after, err := w.store.Read(t.Context(), path); err != nil || !bytes.Equal(after, before) {
				t.Errorf("%s was not mended: %v", path, err)
			}
		}
	}
}

// TestBitFlips flips bits anywhere: in the log, in the tiles, in the checkpoint. None passes.
func TestBitFlips(t *testing.T) {
	w := newWorld(t)
	w.run(600)
	good := slices.Clone(w.lines)
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		n := random.IntN(len(good))
		w.lines = slices.Clone(good)
		w.lines[n] = bytes.Clone(good[n])
		w.lines[n][random.IntN(len(good[n]))] ^= 1 << random.IntN(8)
		_, err := w.check()
		var damage *DamageError
		if !errors.As(err, &damage) || damage.Line != int64(n)+1 {
			t.Fatalf("a bit of line %d: %v", n+1, err)
		}
	}
	w.lines = good
	signed, _ := w.checkpoint()
	for i := range signed {
		for bit := range 8 {
			flipped := bytes.Clone(signed)
			flipped[i] ^= 1 << bit
			if c, err := OpenCheckpoint(flipped, w.keys.Verifiers...); err == nil && c.String() != string(signed[:bytes.Index(signed, []byte("\n\n"))+1]) {
				t.Errorf("bit %d of byte %d of the checkpoint: opened as %v", bit, i, c)
			}
		}
	}
}

func TestKeyReplaced(t *testing.T) {
	w := newWorld(t)
	w.run(10)
	old := w.keys
	skey, err := NewKey(old.Origin())
	if err != nil {
		t.Fatal(err)
	}
	w.keys, err = ParseKeys([]byte(skey))
	if err != nil {
		t.Fatal(err)
	}
	var key *KeyError
	if _, err := w.open(); !errors.As(err, &key) || !strings.Contains(err.Error(), "the key was replaced") {
		t.Errorf("opened under another key: %v", err)
	}
	// The old key on the second line makes it a rotation.
	w.keys.Verifiers = append(w.keys.Verifiers, old.Verifiers...)
	w.run(1)
	signed, _ := w.checkpoint()
	if _, err := OpenCheckpoint(signed, w.keys.Verifiers[0]); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
}

func TestCheckpointLost(t *testing.T) {
	w := newWorld(t)
	w.run(600)
	if err := os.Remove(filepath.Join(w.dir, checkpointPath)); err != nil {
		t.Fatal(err)
	}
	good := w.lines
	w.lines = slices.Clone(good)
	w.lines[100] = line(5)
	_, err := w.open()
	var damage *DamageError
	if !errors.As(err, &damage) || damage.Line != 101 {
		t.Errorf("an altered log without its checkpoint: %v", err)
	}
	w.lines = good
	w.run(1)
}

func TestCheckpointUnreadable(t *testing.T) {
	for _, content := range []string{"", "x", "a\n1\nb\n\n— c d\n", "\n\n"} {
		w := newWorld(t)
		w.run(3)
		if err := os.WriteFile(filepath.Join(w.dir, checkpointPath), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := w.open(); err == nil {
			t.Errorf("opened with the checkpoint %q", content)
		}
	}
}

// TestDiskFull: checkpoints stop while nothing can be written, appends go on, and
// later the tree has everything.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	full := &fullStore{Store: w.store}
	w.cfg.Store = full
	l, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	w.through(l, func() {
		full.set(errors.New("no space"))
		for range 5 {
			l.Append(w.write(200))
		}
		full.waitFor(t, 3)
		full.set(nil)
		l.Append(w.write(1))
		for range w.published(l, 1001) {
			continue
		}
	})
	if _, err := w.check(); err != nil {
		t.Error(err)
	}
}

func TestFolderDoesNotFollowLinks(t *testing.T) {
	w := newWorld(t)
	outside := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(outside, []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(w.dir, "tile")); err != nil {
		t.Fatal(err)
	}
	if err := w.store.WriteTile(t.Context(), "tile/0/000", []byte("x")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tile was written through a symbolic link: %v", err)
	}
	if got := fmt.Sprint(os.ReadFile(outside)); got == "" {
		t.Error(got)
	}
}
