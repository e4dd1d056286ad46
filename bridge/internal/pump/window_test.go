package pump

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/event"
)

// record is an item of key, or one without a key when key is "".
func record(offset int64, key string) *item {
	it := &item{offset: offset, size: 100}
	if key != "" {
		it.record = event.Record{Key: []byte(key)}
	}
	return it
}

func TestWindowKeepsTheOrderOfItsKeys(t *testing.T) {
	records := []string{"a", "a", "b", "", "", "a", "b"}
	for order, want := range map[Order][]int64{
		ByKey:       {0, 2, 3, 4}, // the head of each key, and each record without one
		ByPartition: {0},
		None:        {0, 1, 2, 3, 4, 5, 6},
	} {
		w := newWindow(order)
		var heads []int64
		for i, key := range records {
			if head := w.add(record(int64(i), key)); head != nil {
				heads = append(heads, head.offset)
			}
		}
		if diff := cmp.Diff(want, heads); diff != "" {
			t.Errorf("order %s: heads (-want +got):\n%s", order, diff)
		}
	}
}

func TestWindowIsBounded(t *testing.T) {
	w := newWindow(ByKey)
	if w.full(250) {
		t.Error("an empty window is full")
	}
	huge := record(0, "a")
	huge.size = 1000
	head := w.add(huge)
	if !w.full(250) {
		t.Error("full = false with 1000 of 250 bytes")
	}
	if w.finish(head); w.full(250) {
		t.Error("full = true after the only record finished")
	}
	for i := range int64(maxItems) {
		if w.full(1 << 30) {
			t.Fatalf("full at %d records, want %d", i, maxItems)
		}
		w.add(record(i, "a"))
	}
	if !w.full(1 << 30) {
		t.Errorf("full = false with %d records", maxItems)
	}
}

func TestWindowRetriesWhenDue(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w := newWindow(ByKey)
	a, b := record(0, "a"), record(1, "b")
	w.push(w.add(a))
	w.push(w.add(b))
	for _, it := range []*item{a, b} {
		if w.next(now) != it {
			t.Fatalf("next is not offset %d", it.offset)
		}
		w.take(1)
	}
	w.retry(a, now.Add(2*time.Second))
	w.retry(b, now.Add(time.Second))
	if it := w.next(now); it != nil {
		t.Errorf("next = offset %d before anything is due", it.offset)
	}
	if at, ok := w.nextDue(now); !ok || !at.Equal(b.due) {
		t.Errorf("nextDue = %v, %v, want %v", at, ok, b.due)
	}
	if it := w.next(now.Add(time.Second)); it != b {
		t.Errorf("next after 1 s = %v, want offset 1", it)
	}
	w.wake(now)
	w.take(1)
	if it := w.next(now); it != a {
		t.Errorf("next after wake = %v, want offset 0", it)
	}
}

// Whatever order events finish in: only heads are handed out, each once, keys in
// order, and lowest is the lowest offset that is not done.
func TestWindowAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.SampledFrom([]Order{ByKey, ByPartition, None}).Draw(t, "order")
		n := rapid.IntRange(1, 60).Draw(t, "records")
		w := newWindow(order)
		left := map[int64]bool{}
		var heads []*item
		lastOfKey := map[string]int64{}
		for i := range int64(n) {
			left[i] = true
			if head := w.add(record(i, fmt.Sprintf("k%d", rapid.IntRange(0, 5).Draw(t, "key")))); head != nil {
				heads = append(heads, head)
			}
		}
		for len(heads) > 0 {
			lowest := int64(-1)
			for i := range int64(n) {
				if left[i] {
					lowest = i
					break
				}
			}
			if got := w.lowest(); got == nil || got.offset != lowest {
				t.Fatalf("lowest = %v, want offset %d", got, lowest)
			}
			i := rapid.IntRange(0, len(heads)-1).Draw(t, "finished")
			it := heads[i]
			heads = append(heads[:i], heads[i+1:]...)
			key := w.key(it)
			if last, seen := lastOfKey[key]; seen && it.offset <= last {
				t.Fatalf("offset %d of key %q handed out after %d", it.offset, key, last)
			}
			lastOfKey[key] = it.offset
			delete(left, it.offset)
			if head := w.finish(it); head != nil {
				heads = append(heads, head)
			}
		}
		if len(left) != 0 || w.lowest() != nil || w.items != 0 || w.bytes != 0 || len(w.queues) != 0 {
			t.Fatalf("left %v, lowest %v, items %d, bytes %d, queues %d; want all gone", left, w.lowest(), w.items, w.bytes, len(w.queues))
		}
	})
}
