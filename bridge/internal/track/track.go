// Package track keeps track of the finished records of one partition.
//
// A Tracker follows the records of a partition from when they are fetched until they are
// finished, in any order, and returns what may be committed: the lowest offset that is not
// finished and, as commit metadata, a map of the finished offsets above it. With both, a
// restarted process does not deliver finished records again.
//
// It is a pure data structure: no clock, no goroutine, no network. It is not safe for
// concurrent use; the loop of the partition owns it.
package track

import (
	"math/bits"
	"slices"
)

// word covers 64 consecutive offsets; those in flight have their bit set. An offset below
// Tracker.next whose bit is clear is done or does not exist: compaction and transaction
// markers leave offsets that no fetch returns. Both count the same.
type word struct {
	base int64 // first offset, a multiple of 64
	open uint64
}

// span is the offsets from first to last, inclusive.
type span struct{ first, last int64 }

// Tracker is the state of one partition. Use New.
type Tracker struct {
	next     int64 // lowest offset not yet received; -1 before the first when nothing was committed
	inFlight int

	// words holds the offsets in flight, ascending. It is a ring buffer: words[head] is
	// the lowest, and size of them are in use. The lowest word always has a bit set; others
	// may be empty until the ring is full.
	words []word
	head  int
	size  int

	// restored holds the offsets that are done according to the metadata given to New and
	// have not been received again yet. It goes into the next map too, so that a second
	// restart still knows of them.
	restored []span
	ignored  string

	kept     int   // records in flight that nobody will finish, see Keep
	keptRuns int   // runs of adjacent ones
	lastKept int64 // offset of the last one; worth nothing while kept is 0

	// What Commit returned last, to find out whether anything changed.
	dirty    bool
	offset   int64
	metadata string
	scratch  []byte
	runs     []span
}

// New starts from what a consumer group stores for the partition: the committed offset, or
// -1 when there is none, and the commit's metadata. Metadata that is not a map of this
// package, or belongs to another offset, is ignored: at worst, records are delivered again.
// Ignored returns the reason.
func New(committed int64, metadata string) *Tracker {
	t := &Tracker{next: max(committed, -1), offset: max(committed, -1), metadata: metadata}
	if metadata == "" {
		return t
	}
	restored, err := decode(t.next, metadata)
	if err != nil {
		t.ignored = err.Error()
		return t
	}
	t.restored = restored
	return t
}

// Ignored returns why the metadata given to New was ignored, "" when it was not.
func (t *Tracker) Ignored() string { return t.ignored }

// Received records that the record at offset was fetched. Offsets must ascend; skipped ones
// are taken not to exist. It returns false when the record must not be delivered: it is
// done according to the metadata given to New, or was received before. When it returns
// true, Done must follow once for the offset.
func (t *Tracker) Received(offset int64) bool {
	if offset < t.next || offset < 0 {
		return false
	}
	if done := t.advance(offset + 1); done {
		return false
	}
	t.open(offset)
	return true
}

// Skip records that no record below next will follow: a fetch went past offsets without
// records. Without it a partition that ends in a transaction marker would never count as
// done.
func (t *Tracker) Skip(next int64) {
	if next > t.next {
		t.advance(next)
	}
}

// Done records that the record at offset is finished. It returns false, and does nothing,
// when the offset is not in flight.
func (t *Tracker) Done(offset int64) bool {
	w := t.find(offset)
	if w == nil || w.open&bit(offset) == 0 {
		return false
	}
	w.open &^= bit(offset)
	t.inFlight--
	t.dirty = true
	for t.size > 0 && t.words[t.head].open == 0 {
		t.head = (t.head + 1) & (len(t.words) - 1)
		t.size--
	}
	return true
}

// Keep records that the record at offset, which Received has just let through, stays
// unfinished for the life of this Tracker: it holds the commit back, and Done must not
// follow. Full needs to know, because kept records do not change the map any more.
func (t *Tracker) Keep(offset int64) {
	if t.kept == 0 || t.lastKept != offset-1 {
		t.keptRuns++
	}
	t.kept++
	t.lastKept = offset
}

// Commit returns what to commit: every offset below offset is done, and metadata, at most
// MaxMetadata bytes, is a map of the done offsets above it. offset is -1 until something
// was committed or received. changed is false when the result is that of the last call, or
// what New was given. A caller that could not store the result calls Recommit.
func (t *Tracker) Commit() (offset int64, metadata string, changed bool) {
	if !t.dirty {
		return t.offset, t.metadata, false
	}
	t.dirty = false
	offset = t.watermark()
	metadata = t.encode(offset)
	changed = offset != t.offset || metadata != t.metadata
	t.offset, t.metadata = offset, metadata
	return offset, metadata, changed
}

// Dirty reports whether Commit may report a change.
func (t *Tracker) Dirty() bool { return t.dirty }

// Recommit makes the next Commit report a change, because its last result was not stored.
func (t *Tracker) Recommit() {
	t.dirty = true
	t.metadata = "-" // never a valid map, so the next one differs
}

// Full reports that no more records should be received: if those in flight finish in the
// worst order, the map might not fit into the metadata. The estimate is close enough that
// fewer than 1000 records in flight, or a map over fewer than 24,000 offsets, never make a
// tracker full. With nothing in flight it is never full either: a restored map that is too
// large must not stop the partition for ever.
func (t *Tracker) Full() bool {
	reach := t.reach() + headroom
	if t.inFlight == 0 || reach <= maxBits {
		return false
	}
	return worstRuns(int64(t.inFlight-t.kept+len(t.restored))+headroom, int64(t.keptRuns), reach) > maxPayload
}

// InFlight returns the number of records that were received and are not done.
func (t *Tracker) InFlight() int { return t.inFlight }

// Blocking returns the lowest offset in flight, which holds back the commit; -1 when
// nothing is in flight.
func (t *Tracker) Blocking() int64 {
	if t.size == 0 {
		return -1
	}
	return t.words[t.head].lowest()
}

// Next returns the offset to fetch next; -1 when nothing was committed or received.
func (t *Tracker) Next() int64 { return t.next }

func (t *Tracker) watermark() int64 {
	if t.size == 0 {
		return t.next
	}
	return t.words[t.head].lowest()
}

// reach is the number of offsets that a map from the watermark has to cover.
func (t *Tracker) reach() int64 {
	end := t.next
	if n := len(t.restored); n > 0 {
		end = t.restored[n-1].last + 1
	}
	return end - t.watermark()
}

// advance moves next up, and past the restored spans it reaches, so that none of them
// touches it. It reports whether the offset below next was restored.
func (t *Tracker) advance(next int64) (done bool) {
	t.next, t.dirty = next, true
	for len(t.restored) > 0 && t.restored[0].first <= t.next {
		s := t.restored[0]
		done = done || s.first < next && next <= s.last+1
		t.next = max(t.next, s.last+1)
		t.restored = t.restored[1:]
	}
	return done
}

func (t *Tracker) open(offset int64) {
	base := offset &^ 63
	if t.size == 0 || t.at(t.size-1).base != base {
		t.push(base)
	}
	t.at(t.size - 1).open |= bit(offset)
	t.inFlight++
}

func (t *Tracker) at(i int) *word { return &t.words[(t.head+i)&(len(t.words)-1)] }

// find returns the word of an offset. In a log without wide gaps its index follows from
// the offset; otherwise it is lower, and a binary search finds it.
func (t *Tracker) find(offset int64) *word {
	if t.size == 0 || offset < t.words[t.head].base {
		return nil
	}
	base := offset &^ 63
	last := min((base-t.words[t.head].base)/64, int64(t.size-1))
	if w := t.at(int(last)); w.base == base {
		return w
	}
	low, high := 0, int(last)
	for low < high {
		if mid := (low + high) / 2; t.at(mid).base < base {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if w := t.at(low); w.base == base {
		return w
	}
	return nil
}

// push adds an empty word at the end. A full ring first drops its empty words and grows
// only when half of it was in use, so that an offset that blocks for days costs memory for
// what is in flight, not for what has overtaken it.
func (t *Tracker) push(base int64) {
	if t.size == len(t.words) {
		kept := make([]word, 0, max(8, len(t.words)))
		for i := range t.size {
			if w := *t.at(i); w.open != 0 {
				kept = append(kept, w)
			}
		}
		t.size, t.head = len(kept), 0
		if 2*t.size >= cap(kept) {
			kept = slices.Grow(kept, 2*cap(kept)-len(kept))[: len(kept) : 2*cap(kept)]
		}
		t.words = kept[:cap(kept)]
	}
	t.size++
	*t.at(t.size - 1) = word{base: base}
}

// doneRuns returns the done offsets above the watermark as runs, ascending and never
// adjacent. The slice is reused.
func (t *Tracker) doneRuns(watermark int64) []span {
	t.runs = t.runs[:0]
	from := watermark // lowest offset not yet found to be in flight or in a run
	for i := range t.size {
		w := t.at(i)
		for open := w.open; open != 0; open &= open - 1 {
			offset := w.base + int64(bits.TrailingZeros64(open))
			t.addRun(from, offset-1)
			from = offset + 1
		}
	}
	t.addRun(from, t.next-1)
	for _, s := range t.restored {
		t.addRun(s.first, s.last)
	}
	return t.runs
}

func (t *Tracker) addRun(first, last int64) {
	if first > last {
		return
	}
	if n := len(t.runs); n > 0 && t.runs[n-1].last+1 == first {
		t.runs[n-1].last = last
		return
	}
	t.runs = append(t.runs, span{first, last})
}

func (w word) lowest() int64 { return w.base + int64(bits.TrailingZeros64(w.open)) }

func bit(offset int64) uint64 { return 1 << (uint64(offset) & 63) }
