package index

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// idAt is a UUIDv7 in quotes.
func idAt(at time.Time, n int) []byte {
	ms := at.UnixMilli()
	return fmt.Appendf(nil, `"%08x-%04x-7%03x-8%03x-%012x"`, ms>>16&0xffffffff, ms&0xffff, n>>12&0xfff, n&0xfff, n)
}

// What was put is never called new, in any order of ids, with ids that hold no time
// and with some from the far future; nor is what the index had before.
func TestNothingKnownIsCalledNew(t *testing.T) {
	x := &Index{}
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hash := func(i int) Hash {
		at := began.Add(time.Duration(i+rand.IntN(200)) * time.Millisecond)
		switch {
		case i%50 == 0:
			return x.HashEvent([]byte(`"s"`), fmt.Appendf(nil, `"id-%d"`, i))
		case i == 9000:
			at = began.AddDate(1000, 0, 0)
		}
		return x.HashEvent([]byte(`"s"`), idAt(at, i))
	}
	r := NewRecent[int](64, x.HashEvent([]byte(`"s"`), idAt(began.Add(500*time.Millisecond), 1)))
	known := map[Hash]int{}
	fresh, held := 0, 0
	for i := range 10_000 {
		h := hash(i)
		if _, ok := known[h]; ok {
			continue
		}
		v, isHeld, isFresh := r.Get(h)
		if isHeld {
			t.Fatalf("%x has the value %d before it was put", h, v)
		}
		if isFresh {
			fresh++
		}
		if at, ok := h.time(); isFresh && (!ok || at <= uint64(began.UnixMilli()+500)) {
			t.Fatalf("%x is called new, though the index may have it", h)
		}
		known[h] = i
		if r.Put(h, i); r.Due() {
			r.Rotate()
		}
		if i%100 != 99 {
			continue
		}
		for h, want := range known {
			switch v, isHeld, isFresh := r.Get(h); {
			case isFresh:
				t.Fatalf("%x is called new", h)
			case isHeld && v != want:
				t.Fatalf("%x has the value %d, want %d", h, v, want)
			case isHeld:
				held++
			}
		}
	}
	if fresh < 5000 || held == 0 {
		t.Errorf("%d of 10000 called new, %d found", fresh, held)
	}
}

// An index that is opened again does not call new what it has.
func TestAnOpenedIndexKnowsItsEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	d := replaceDisk(t)
	x := open(t, dir, d)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ids := [][]byte{idAt(at.Add(time.Hour), 1), idAt(at, 2), []byte(`"other"`), idAt(time.UnixMilli(1<<48-1), 3)}
	var list []Entry
	for i, id := range ids {
		e := x.Identify([]byte(`"s"`), id, idAt(at, 4), int64(i+1), true)
		e.Seq, e.At = int64(i+1), int64(100*i)
		list = append(list, e)
	}
	if err := x.Apply(list, Head{Seq: int64(len(list)), End: 400}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i, id := range ids {
			if got, err := x.Find(x.HashEvent([]byte(`"s"`), id)); err != nil || len(got) != 1 || got[0] != int64(i+1) {
				t.Errorf("%s: found %v: %v", id, got, err)
			}
		}
		if latest, err := x.LatestChain(); err != nil || latest != list[0].Chain {
			t.Errorf("the latest chain is %x: %v, want %x", latest, err, list[0].Chain)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		x = open(t, dir, d)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}
