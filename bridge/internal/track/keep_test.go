package track_test

import (
	"math/rand/v2"
	"testing"

	"github.com/taskwire/taskwire/bridge/internal/track"
)

// TestKeptRecordsFitIntoTheMap: however many records are kept, and in whatever
// pattern, a tracker that is not full has a map, and the map brings back what is
// done and nothing else.
func TestKeptRecordsFitIntoTheMap(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr, done := track.New(0, ""), map[int64]bool{}
		run, keep, n := 1+r.IntN(1<<r.IntN(14)), true, int64(0)
		for ; !tr.Full() && n < 200_000; n++ {
			if r.IntN(run) == 0 {
				keep = !keep
			}
			tr.Received(n)
			if keep || n == 0 {
				tr.Keep(n)
			} else {
				tr.Done(n)
				done[n] = true
			}
		}
		at, metadata, _ := tr.Commit()
		if at != 0 || (metadata == "" && len(done) > 0) || len(metadata) > track.MaxMetadata {
			t.Fatalf("seed %d: %d records, %d done: committed %d with a map of %d bytes", seed, n, len(done), at, len(metadata))
		}
		back := track.New(at, metadata)
		for i := range n {
			if back.Received(i) == done[i] {
				t.Fatalf("seed %d: offset %d is done = %v after a restart, want %v", seed, i, !done[i], done[i])
			}
		}
	}
}

// TestOneOfMany: finishing one record among very many that are kept needs next to no map.
func TestOneOfMany(t *testing.T) {
	tr := track.New(0, "")
	for i := range int64(1_000_000) {
		if tr.Full() {
			t.Fatalf("full at %d", i)
		}
		tr.Received(i)
		if i == 500_000 {
			tr.Done(i)
		} else {
			tr.Keep(i)
		}
	}
	if at, metadata, _ := tr.Commit(); at != 0 || len(metadata) > 40 || metadata == "" {
		t.Errorf("committed %d with %q, want 0 and a short map", at, metadata)
	}
}
