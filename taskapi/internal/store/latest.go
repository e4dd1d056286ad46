package store

import (
	"slices"
	"sync"

	"github.com/taskwire/taskwire/taskapi/internal/outbox"
)

// latest holds the unpublished rows that were committed last, so that the relay
// need not read back what was just written. The writer changes it after each
// commit, before anybody is answered: it never differs from what is on disk.
type latest struct {
	mu    sync.Mutex
	rows  []outbox.Row // ascending ids
	bytes int
	from  int64 // each unpublished row with this id or a higher one is in rows
	all   bool  // each unpublished row is
}

const (
	latestRows  = 4096
	latestBytes = 2 << 20
)

// run is the ids that a transaction marked as published.
type run struct{ first, last int64 }

func (l *latest) begin(outboxID, pending int64) { l.from, l.all = outboxID+1, pending == 0 }

// commit takes what a transaction has done; pending rows are unpublished after it.
func (l *latest) commit(published []run, added []outbox.Row, pending int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range published {
		i, _ := slices.BinarySearchFunc(l.rows, p.first, byID)
		j, _ := slices.BinarySearchFunc(l.rows, p.last+1, byID)
		for _, r := range l.rows[i:j] {
			l.bytes -= len(r.Event)
		}
		l.rows = slices.Delete(l.rows, i, j)
	}
	l.rows = append(l.rows, added...)
	for _, r := range added {
		l.bytes += len(r.Event)
	}
	drop := 0
	for bytes := l.bytes; len(l.rows)-drop > latestRows || bytes > latestBytes; drop++ {
		bytes -= len(l.rows[drop].Event)
	}
	for _, r := range l.rows[:drop] {
		l.bytes -= len(r.Event)
		l.from = r.ID + 1
	}
	l.rows = slices.Delete(l.rows, 0, drop)
	l.all = int64(len(l.rows)) == pending
}

func byID(r outbox.Row, id int64) int { return int(min(1, max(-1, r.ID-id))) }

// next is Store.Next; false when rows that it needs are on disk only.
func (l *latest) next(after int64, limit, bytes int) (page outbox.Page, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after+1 < l.from && !l.all {
		return page, false
	}
	i, _ := slices.BinarySearchFunc(l.rows, after+1, byID)
	n, size := i, 0
	for ; n < len(l.rows) && n-i < limit; n++ {
		if size += len(l.rows[n].Event); size > bytes && n > i {
			break
		}
	}
	if n > i {
		page.Rows, page.Settled = slices.Clone(l.rows[i:n]), l.rows[n-1].ID
	}
	return page, true
}
