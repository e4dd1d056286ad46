package tree

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// witness is a strict witness as C2SP tlog-witness describes it. It signs with
// another implementation of cosignatures than ours.
type witness struct {
	*httptest.Server
	t      *testing.T
	log    note.Verifier
	signer *torchwood.CosignatureSigner

	mu   sync.Mutex
	size int64
	root tlog.Hash
	down bool
	took int // checkpoints
}

func newWitness(w *world) *witness {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	signer, err := torchwood.NewCosignatureSigner("witness.example/w1", key)
	if err != nil {
		w.t.Fatal(err)
	}
	v := &witness{t: w.t, log: w.keys.Verifiers[0], signer: signer}
	v.Server = httptest.NewServer(v)
	w.t.Cleanup(v.Close)
	w.cfg.Witnesses, err = ParseWitnesses([]byte("# ours\nlog x\n\nwitness w1 " + signer.Verifier().String() + " " + v.URL + "/\nquorum w1\n"))
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (v *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil || v.down || r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" {
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	status, answer := v.add(string(body))
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, answer)
}

func (v *witness) add(body string) (int, string) {
	head, signed, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	var old int64
	if n, err := fmt.Sscanf(lines[0], "old %d", &old); !ok || n != 1 || err != nil {
		return http.StatusBadRequest, ""
	}
	var proof tlog.TreeProof
	for _, l := range lines[1:] {
		h, err := tlog.ParseHash(l)
		if err != nil {
			return http.StatusBadRequest, ""
		}
		proof = append(proof, h)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(v.log))
	if err != nil {
		return http.StatusForbidden, ""
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	switch {
	case err != nil, old > c.N:
		return http.StatusBadRequest, ""
	case old != v.size:
		return http.StatusConflict, fmt.Sprintf("%d\n", v.size)
	case old == 0 && len(proof) > 0, old == c.N && old > 0 && c.Hash != v.root:
		return http.StatusUnprocessableEntity, ""
	case old > 0 && old < c.N && tlog.CheckTree(proof, c.N, c.Hash, old, v.root) != nil:
		return http.StatusUnprocessableEntity, ""
	}
	v.size, v.root = c.N, c.Hash
	v.took++
	n.Sigs = nil
	cosigned, err := note.Sign(n, v.signer)
	if err != nil {
		v.t.Error(err)
	}
	return http.StatusOK, string(cosigned[len(n.Text)+1:])
}

func (v *witness) setDown(down bool) { v.mu.Lock(); defer v.mu.Unlock(); v.down = down }

// cosigned reports whether the checkpoint on disk has the witness's signature.
func (v *witness) cosigned(w *world) bool {
	signed, _ := w.checkpoint()
	n, err := note.Open(signed, note.VerifierList(w.keys.Verifiers[0], v.signer.Verifier()))
	return err == nil && len(n.Sigs) == 2
}

func TestWitness(t *testing.T) {
	w := newWorld(t)
	v := newWitness(w)
	w.run(300, 1)
	if !v.cosigned(w) || v.size != 301 {
		t.Fatalf("the witness has seen %d lines, cosigned: %v", v.size, v.cosigned(w))
	}
	// One that is down delays nothing, and catches up from where it was.
	v.setDown(true)
	w.run(200, 300)
	if v.cosigned(w) {
		t.Fatal("cosigned by a witness that is down")
	}
	v.setDown(false)
	w.run(1)
	if !v.cosigned(w) || v.size != 802 {
		t.Fatalf("the witness has seen %d lines, cosigned: %v", v.size, v.cosigned(w))
	}
	if _, err := w.check(); err != nil {
		t.Error(err)
	}
}

// rollBack restores log and tree to an earlier state, as a backup would.
func (w *world) rollBack(n int, then func()) {
	w.t.Helper()
	w.run(n)
	saved := filepath.Join(w.t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	lines := w.lines[:len(w.lines):len(w.lines)]
	then()
	for _, name := range []string{"tile", "checkpoint"} {
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.CopyFS(w.dir, os.DirFS(saved)); err != nil {
		w.t.Fatal(err)
	}
	w.lines = lines
}

func TestWitnessKnowsMore(t *testing.T) {
	w := newWorld(t)
	newWitness(w)
	w.rollBack(20, func() { w.run(10) })
	var fork *ForkError
	if _, err := w.open(); !errors.As(err, &fork) || !strings.Contains(err.Error(), "has seen 30 lines of this log, which has 20") {
		t.Errorf("a log that was rolled back: %v", err)
	}
	// A log that begins anew is the same to the witness.
	w.lines = nil
	for _, name := range []string{"tile", "checkpoint"} {
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.open(); !errors.As(err, &fork) {
		t.Errorf("a log that begins anew: %v", err)
	}
}

// TestWitnessKnowsAnother: rolled back and continued while the witness was away.
func TestWitnessKnowsAnother(t *testing.T) {
	w := newWorld(t)
	v := newWitness(w)
	w.rollBack(20, func() { w.run(10) })
	v.setDown(true)
	l, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	w.through(l, func() {
		w.mu.Lock()
		other := line(77)
		w.lines = append(w.lines, other)
		w.mu.Unlock()
		l.Append(21, [][32]byte{Leaf(other)})
		l.Append(w.write(20))
		for range w.published(l, 41) {
			continue
		}
		v.setDown(false)
		l.Append(w.write(1))
		<-l.Failed()
	})
	var fork *ForkError
	if !errors.As(l.Fault(), &fork) || !strings.Contains(l.Fault().Error(), "has seen 30 lines that are not the first 30") {
		t.Errorf("another log: %v", l.Fault())
	}
}

func TestSecondPlace(t *testing.T) {
	for _, kind := range []string{"folder", "file URL", "http"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			dir := t.TempDir()
			address := dir
			switch kind {
			case "file URL":
				address = "file://" + filepath.ToSlash(dir)
			case "http":
				server := httptest.NewServer(putFolder(dir))
				t.Cleanup(server.Close)
				address = server.URL + "/checkpoint"
			}
			var err error
			if w.cfg.Second, err = ParsePlace(address, w.cfg.Client); err != nil {
				t.Fatal(err)
			}
			w.rollBack(300, func() { w.run(7) })
			copied, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			if c, err := OpenCheckpoint(copied, w.keys.Verifiers...); err != nil || c.N != 307 {
				t.Fatalf("the copy covers %d lines: %v", c.N, err)
			}
			var fork *ForkError
			if _, err := w.open(); !errors.As(err, &fork) || !strings.Contains(err.Error(), "covers 307 lines of this log, which has 300") {
				t.Errorf("rolled back: %v", err)
			}
			// The same number of lines, and others.
			w.lines = append(w.lines, slices.Repeat([][]byte{line(1)}, 8)...)
			if _, err := w.open(); !errors.As(err, &fork) || !strings.Contains(err.Error(), "are not the first 307") {
				t.Errorf("rolled back and continued: %v", err)
			}
			if again, _ := os.ReadFile(filepath.Join(dir, "checkpoint")); !bytes.Equal(again, copied) {
				t.Error("the copy was overwritten")
			}
		})
	}
}

// putFolder keeps what is PUT as files.
func putFolder(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Join(dir, filepath.Base(r.URL.Path))
		switch r.Method {
		case http.MethodPut:
			body, _ := io.ReadAll(r.Body)
			if err := os.WriteFile(name, body, 0o644); err != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		case http.MethodGet:
			http.ServeFile(w, r, name)
		}
	})
}

// TestSecondPlaceOlder: a checkpoint that the local disk lost is no rollback.
func TestSecondPlaceOlder(t *testing.T) {
	w := newWorld(t)
	var err error
	if w.cfg.Second, err = ParsePlace(t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	w.run(300)
	old, _ := w.checkpoint()
	w.run(300)
	if err := w.store.WriteCheckpoint(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	w.run(5)
	if _, c := w.checkpoint(); c.N != 605 {
		t.Errorf("the checkpoint covers %d lines, want 605", c.N)
	}
}

func TestBadPlaces(t *testing.T) {
	for _, address := range []string{"ftp://host/x", "http://", "http://user:secret@host/", "file://host/x", "s3://bucket/x", "http://%zz"} {
		if _, err := ParsePlace(address, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParsePlace(%q) = %v", address, err)
		}
	}
	w := newWorld(t)
	missing := filepath.Join(t.TempDir(), "gone")
	w.cfg.Second, _ = ParsePlace(missing, nil)
	w.run(3) // goes on, and says so
	if _, err := w.cfg.Second.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "create it") {
		t.Errorf("a folder that is missing: %v", err)
	}
}

func TestBadWitnessFiles(t *testing.T) {
	w := newWorld(t)
	good := newWitness(w).signer.Verifier().String()
	for _, text := range []string{"witnes a b c", "witness a", "witness a " + good, "witness a " + good + " ftp://x/", "witness a " + w.keys.VKeys[0] + " http://x/", "witness a " + strings.Replace(good, "w1", "w2", 1) + " http://x/"} {
		if _, err := ParseWitnesses([]byte("\n" + text + "\n")); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSecondPlaceComesBack: what could not be compared at the start is compared
// before it is overwritten.
func TestSecondPlaceComesBack(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	gate := &gatedPlace{Place: &folderPlace{dir}}
	w.cfg.Second = gate
	w.rollBack(20, func() { w.run(10) })
	gate.shut.Store(true)
	l, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	w.through(l, func() {
		w.lines = append(w.lines, []byte("another\n"))
		l.Append(21, [][32]byte{Leaf(w.lines[20])})
		l.Append(w.write(20))
		for range w.published(l, 41) {
			continue
		}
		gate.shut.Store(false)
		<-l.Failed()
	})
	var fork *ForkError
	if !errors.As(l.Fault(), &fork) {
		t.Errorf("fault: %v", l.Fault())
	}
}

type gatedPlace struct {
	Place
	shut atomic.Bool
}

func (g *gatedPlace) Get(ctx context.Context) ([]byte, error) {
	if g.shut.Load() {
		return nil, errors.New("unreachable")
	}
	return g.Place.Get(ctx)
}
