package track_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/bridge/internal/track"
)

// oracle is the obvious implementation: it keeps every offset by itself.
type oracle struct {
	next int64
	open map[int64]bool // in flight
	done map[int64]bool // done, at or above the last commit
}

func (o *oracle) watermark() int64 {
	low := o.next
	for offset := range o.open {
		low = min(low, offset)
	}
	for o.done[low] && len(o.open) == 0 {
		low++
	}
	return low
}

func (o *oracle) received(offset int64) bool {
	for ; o.next < offset; o.next++ {
		o.done[o.next] = true // a gap, with nothing to deliver
	}
	o.next = offset + 1
	if o.done[offset] {
		return false
	}
	o.open[offset] = true
	return true
}

// TestAgainstOracle applies the same steps to a tracker and the oracle, with restarts from
// the last commit, and compares the results of all their methods.
func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1000).Draw(t, "start")
		tr := track.New(start, "")
		o := &oracle{next: start, open: map[int64]bool{}, done: map[int64]bool{}}
		log := map[int64]bool{} // which offsets hold a record
		head, end := start, start
		steps := rapid.IntRange(1, 300).Draw(t, "steps")
		for range steps {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0: // a gap in the log
				if head == end {
					head += int64(rapid.SampledFrom([]int{1, 2, 63, 64, 65, 500}).Draw(t, "gap"))
				}
			case 1, 2, 3, 4: // a record is fetched
				for head < end && !log[head] {
					head++ // below the end of the log a fetch returns only existing records
				}
				log[head] = true
				got, want := tr.Received(head), o.received(head)
				if got != want {
					t.Fatalf("Received(%d) = %t, want %t", head, got, want)
				}
				head++
				end = max(end, head)
			case 5, 6, 7, 8: // a record is finished
				if len(o.open) == 0 {
					continue
				}
				offset := rapid.SampledFrom(slices.Sorted(maps.Keys(o.open))).Draw(t, "offset")
				delete(o.open, offset)
				o.done[offset] = true
				if !tr.Done(offset) || tr.Done(offset) {
					t.Fatalf("Done(%d) must be true once, then false", offset)
				}
			case 9: // a crash right after a commit
				offset, metadata, _ := tr.Commit()
				tr = track.New(offset, metadata)
				if why := tr.Ignored(); why != "" {
					t.Fatalf("the tracker's own map was ignored: %s", why)
				}
				head, o.next, o.open = offset, offset, map[int64]bool{}
			}
			compare(t, tr, o)
		}
	})
}

func compare(t *rapid.T, tr *track.Tracker, o *oracle) {
	t.Helper()
	if tr.InFlight() != len(o.open) {
		t.Fatalf("InFlight() = %d, want %d", tr.InFlight(), len(o.open))
	}
	blocking := int64(-1)
	if len(o.open) > 0 {
		blocking = slices.Min(slices.Collect(maps.Keys(o.open)))
	}
	if got := tr.Blocking(); got != blocking {
		t.Fatalf("Blocking() = %d, want %d", got, blocking)
	}
	offset, metadata, _ := tr.Commit()
	if want := o.watermark(); offset != want {
		t.Fatalf("Commit() = %d, want %d", offset, want)
	}
	if len(metadata) > track.MaxMetadata {
		t.Fatalf("metadata of %d bytes, want at most %d", len(metadata), track.MaxMetadata)
	}
	if _, _, changed := tr.Commit(); changed {
		t.Fatal("a second Commit() reports a change")
	}
	again := track.New(offset, metadata)
	for i := offset; i < o.next+70; i++ {
		if got := !again.Received(i); got != o.done[i] && i >= offset {
			t.Fatalf("after a restart at %d, offset %d counts as done: %t, want %t (map %q)", offset, i, got, o.done[i], metadata)
		}
	}
}

// TestNeverTooBig fills trackers in the worst ways and checks that the map fits as long as
// Full allowed each record.
func TestNeverTooBig(t *testing.T) {
	shapes := map[string]func(i int, r *rand.Rand) bool{ // which records finish immediately
		"first blocks":       func(i int, _ *rand.Rand) bool { return i > 0 },
		"every other":        func(i int, _ *rand.Rand) bool { return i%2 == 1 },
		"none":               func(int, *rand.Rand) bool { return false },
		"one of 130 blocks":  func(i int, _ *rand.Rand) bool { return i%130 != 0 },
		"random half":        func(_ int, r *rand.Rand) bool { return r.IntN(2) == 0 },
		"random few block":   func(_ int, r *rand.Rand) bool { return r.IntN(300) != 0 },
		"pairs of two block": func(i int, _ *rand.Rand) bool { return i%4 < 2 && i > 0 },
	}
	for name, finished := range shapes {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			tr := track.New(0, "")
			var open []int64
			var offset int64
			for i := 0; !tr.Full() && i < 1_000_000; i++ {
				offset++
				if i%17 == 3 {
					offset += 3
				}
				tr.Received(offset)
				if finished(i, r) {
					tr.Done(offset)
				} else {
					open = append(open, offset)
				}
			}
			t.Logf("%d offsets, %d in flight", offset, len(open))
			// The records in flight finish in any order: the map must always fit.
			r.Shuffle(len(open)-1, func(i, j int) { open[i+1], open[j+1] = open[j+1], open[i+1] })
			for n, o := range open[1:] {
				tr.Done(o)
				if n%50 != 0 {
					continue
				}
				if at, metadata, _ := tr.Commit(); metadata == "" || len(metadata) > track.MaxMetadata {
					t.Fatalf("with %d records in flight up to offset %d the map at %d has %d bytes, want 1 to %d", tr.InFlight(), offset, at, len(metadata), track.MaxMetadata)
				}
			}
		})
	}
}

// TestALargeRestoredMapDoesNotStopThePartition: a map of 4096 bytes, as once was written, or
// one over more offsets than this version would write, is used up one record at a time.
func TestALargeRestoredMapDoesNotStopThePartition(t *testing.T) {
	for name, metadata := range map[string]string{
		"4096 bytes": track.Seal(100, 'b', bytes.Repeat([]byte{0x55}, 3065)), // every other offset
		"far":        track.Seal(100, 'r', binary.AppendUvarint(binary.AppendUvarint(nil, 1<<40), 1)),
	} {
		tr := track.New(100, metadata)
		if why := tr.Ignored(); why != "" {
			t.Fatalf("%s: a map of %d bytes was ignored: %s", name, len(metadata), why)
		}
		for offset := range int64(7000) {
			if tr.Full() {
				t.Fatalf("%s: full at offset %d with nothing in flight", name, 100+offset)
			}
			if tr.Received(100 + offset) {
				tr.Done(100 + offset)
			}
		}
	}
}

func TestNothingCommitted(t *testing.T) {
	tr := track.New(-1, "")
	if offset, metadata, changed := tr.Commit(); offset != -1 || metadata != "" || changed {
		t.Fatalf("Commit() = %d, %q, %t before anything was received", offset, metadata, changed)
	}
	tr.Received(7)
	if offset, _, changed := tr.Commit(); offset != 7 || !changed {
		t.Fatalf("Commit() = %d, %t, want 7, true", offset, changed)
	}
	tr.Done(7)
	if offset, _, _ := tr.Commit(); offset != 8 {
		t.Fatalf("Commit() = %d, want 8", offset)
	}
}

func TestRecommit(t *testing.T) {
	tr := track.New(5, "")
	tr.Received(5)
	tr.Done(5)
	first, metadata, _ := tr.Commit()
	tr.Recommit()
	again, metadata2, changed := tr.Commit()
	if !changed || again != first || metadata2 != metadata {
		t.Fatalf("after Recommit: %d, %q, %t; want %d, %q, true", again, metadata2, changed, first, metadata)
	}
}

// TestForeignMetadata: metadata that another program wrote, or that is damaged, is ignored
// with a reason, and no record counts as done because of it.
func TestForeignMetadata(t *testing.T) {
	tr := track.New(100, "")
	for i := range int64(50) {
		tr.Received(100 + i)
	}
	for i := range int64(20) {
		tr.Done(103 + 2*i)
	}
	_, good, _ := tr.Commit()
	cases := map[string]struct {
		committed int64
		metadata  string
	}{
		"another program":     {100, "consumer-3"},
		"base64 of another":   {100, base64.StdEncoding.EncodeToString([]byte("lIBXAAAA"))},
		"newer version":       {100, "tw2" + good[3:]},
		"another offset":      {101, good},
		"offset reset to -1":  {-1, good},
		"truncated":           {100, good[:len(good)-2]},
		"only the version":    {100, "tw1"},
		"no checksum":         {100, "tw1b"},
		"another form":        {100, "tw1r" + good[4:]},
		"unknown form":        {100, "tw1x" + good[4:]},
		"one character other": {100, good[:12] + string(good[12]^1) + good[13:]},
		"too long":            {100, good + strings.Repeat("A", 5000)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tr := track.New(c.committed, c.metadata)
			if tr.Ignored() == "" {
				t.Fatal("metadata was accepted")
			}
			for i := max(c.committed, 0); i < 200; i++ {
				if !tr.Received(i) {
					t.Fatalf("offset %d counts as done", i)
				}
			}
		})
	}
}

func TestNoAllocationPerRecord(t *testing.T) {
	tr := track.New(0, "")
	var offset int64
	life := func() {
		for range 1000 {
			tr.Received(offset)
			offset++
		}
		for i := offset - 1; i >= offset-1000; i-- {
			tr.Done(i)
		}
	}
	life()
	if n := testing.AllocsPerRun(100, life); n > 1 {
		t.Fatalf("%v allocations per 1000 records", n)
	}
}

// FuzzNew: with any metadata, New neither panics nor returns an inconsistent tracker.
func FuzzNew(f *testing.F) {
	f.Add(int64(10), "tw1bAAAA")
	f.Add(int64(-1), "")
	f.Add(int64(0), "tw1r")
	f.Fuzz(func(t *testing.T, committed int64, metadata string) { live(t, committed, metadata) })
}

// FuzzSealed is FuzzNew for payloads with a valid checksum.
func FuzzSealed(f *testing.F) {
	f.Add(int64(10), true, []byte{1, 2, 1, 200, 1})
	f.Add(int64(10), false, []byte{0xfe, 0x01, 0x80})
	f.Add(int64(1), true, binary.AppendUvarint([]byte{1}, 1<<61))
	f.Fuzz(func(t *testing.T, committed int64, runs bool, payload []byte) {
		form := byte('b')
		if runs {
			form = 'r'
		}
		live(t, committed, track.Seal(committed, form, payload))
	})
}

// live restores a tracker, receives a few records, and restores it again.
func live(t *testing.T, committed int64, metadata string) {
	tr := track.New(committed, metadata)
	if tr.Ignored() == "" && metadata != "" && committed < 0 {
		t.Fatal("a map without a committed offset was accepted")
	}
	if committed >= 1<<62 {
		return
	}
	for range 3 {
		at := max(tr.Next(), 0)
		if !tr.Received(at) {
			t.Fatalf("offset %d, the next one, counts as done", at)
		}
		tr.Full()
	}
	low := tr.Blocking()
	offset, metadata, _ := tr.Commit()
	if offset != low || len(metadata) > track.MaxMetadata {
		t.Fatalf("Commit() = %d with %d bytes of metadata, want the blocking offset %d", offset, len(metadata), low)
	}
	again := track.New(offset, metadata)
	if why := again.Ignored(); why != "" {
		t.Fatalf("the tracker's own map was ignored: %s", why)
	}
	if !tr.Done(low) || !again.Received(low) || again.Blocking() != low {
		t.Fatalf("Blocking() = %d, and %d after a restart", low, again.Blocking())
	}
}

func BenchmarkInOrder(b *testing.B) {
	tr := track.New(0, "")
	b.ReportAllocs()
	for i := range int64(b.N) {
		tr.Received(i)
		tr.Done(i)
	}
}

func BenchmarkWindow(b *testing.B) {
	tr := track.New(0, "")
	r := rand.New(rand.NewPCG(1, 1))
	window := make([]int64, 0, 512)
	b.ReportAllocs()
	for i := range int64(b.N) {
		tr.Received(i)
		if window = append(window, i); len(window) == cap(window) {
			j := r.IntN(len(window))
			tr.Done(window[j])
			window[j] = window[len(window)-1]
			window = window[:len(window)-1]
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	tr := track.New(0, "")
	for i := range int64(10_000) {
		tr.Received(i)
		if i%9 != 0 {
			tr.Done(i)
		}
	}
	next := int64(10_000)
	b.ReportAllocs()
	for b.Loop() {
		tr.Received(next)
		tr.Done(next)
		next++
		tr.Commit()
	}
}
