package store

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/taskwire/taskwire/taskapi/internal/outbox"
)

// What the relay gets from memory is what it would read from the file, whatever was
// committed and marked in whatever order, and whatever waited before the start.
func TestTheLatestRowsAreThoseOfTheFile(t *testing.T) {
	const before = 5000 // rows of an earlier process
	var file []outbox.Row
	id := int64(0)
	add := func(n int) []outbox.Row {
		added := make([]outbox.Row, n)
		for i := range added {
			id++
			added[i] = outbox.Row{ID: id, Event: make([]byte, 1+rand.IntN(2000))}
		}
		file = append(file, added...)
		return added
	}
	add(before)
	var l latest
	l.begin(id, before)
	served := 0
	for i := range 2000 {
		var runs []run
		for range rand.IntN(3) * min(1, i%400/50) { // now and then nothing is marked for a while
			if len(file) == 0 || rand.IntN(20) == 0 {
				continue
			}
			from := rand.IntN(len(file)) * (rand.IntN(4) / 3)
			to := min(len(file), from+1+rand.IntN(600))
			for to > from+1 && file[to-1].ID-file[from].ID != int64(to-1-from) {
				to--
			}
			runs = append(runs, run{file[from].ID, file[to-1].ID})
			file = slices.Delete(file, from, to)
		}
		l.commit(runs, add(rand.IntN(200)), int64(len(file)))
		after, limit, bytes := rand.Int64N(id+2)*int64(rand.IntN(2)), 1+rand.IntN(700), 1+rand.IntN(300_000)
		got, ok := l.next(after, limit, bytes)
		if !ok {
			continue
		}
		served++
		if want := pageOf(file, after, limit, bytes); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d, %d rows of %d bytes: from memory %d rows to %d, from the file %d to %d",
				after, limit, bytes, len(got.Rows), got.Settled, len(want.Rows), want.Settled)
		}
		if size := sizeOf(l.rows); len(l.rows) > latestRows || size > latestBytes || size != l.bytes {
			t.Fatalf("%d rows of %d bytes, which count as %d", len(l.rows), size, l.bytes)
		}
	}
	if served < 500 {
		t.Errorf("%d pages came from memory", served)
	}
}

func pageOf(file []outbox.Row, after int64, limit, bytes int) (page outbox.Page) {
	size := 0
	for _, r := range file {
		if r.ID <= after {
			continue
		}
		if size += len(r.Event); len(page.Rows) > 0 && (size > bytes || len(page.Rows) == limit) {
			break
		}
		page.Rows, page.Settled = append(page.Rows, r), r.ID
	}
	return page
}

func sizeOf(rows []outbox.Row) (n int) {
	for _, r := range rows {
		n += len(r.Event)
	}
	return n
}
