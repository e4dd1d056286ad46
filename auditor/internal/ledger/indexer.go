package ledger

import (
	"errors"
	"fmt"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

// maxBacklog bounds the bytes of entries that are on disk and not in the index:
// they are held in memory.
const maxBacklog = 4 << 20

// errIndexFull stands for the disk that the index waits for.
var errIndexFull = errors.New("no space left for the index")

// runIndexer adds durable batches to the index, as many at a time as wait, until
// the ledger is closed. Nobody waits for it but a writer that is too far ahead.
//
// An event is always in inFlight or in the index: its claim is dropped after the
// index has it.
func (l *Ledger) runIndexer() {
	var entries []index.Entry
	for {
		l.mu.Lock()
		for len(l.unindexed) == 0 && !l.ending {
			l.wake.Wait()
		}
		batches := l.unindexed
		l.unindexed = nil
		l.mu.Unlock()
		if len(batches) == 0 {
			return
		}
		entries = entries[:0]
		for _, b := range batches {
			for _, c := range b.claims {
				entries = append(entries, c.Entry)
			}
		}
		h := batches[len(batches)-1].head
		if err := l.index.Apply(entries, h); err != nil {
			if !errors.Is(err, index.ErrStopped) {
				l.fail(&FaultError{err})
			}
			return
		}
		l.versions.forget(h.Seq)
		l.mu.Lock()
		for _, b := range batches {
			for _, c := range b.claims {
				delete(l.inFlight, c.key)
			}
			l.backlog -= b.bytes
		}
		l.forgetMarks(h.Seq)
		l.wake.Broadcast()
		l.mu.Unlock()
	}
}

// forgetMarks drops the marks that the index has. mu is held, or no other
// goroutine has l yet.
func (l *Ledger) forgetMarks(indexed int64) {
	l.indexed = indexed
	n := 0
	for n < len(l.marks) && l.marks[n].seq <= indexed {
		n++
	}
	l.marks = append(l.marks[:0], l.marks[n:]...)
}

// awaitIndexer waits while the indexer is too far behind. mu is held, and
// released meanwhile.
func (l *Ledger) awaitIndexer() error {
	for l.backlog > maxBacklog && l.fault == nil {
		if l.index.Full() {
			return &FullError{errIndexFull}
		}
		l.wake.Wait()
	}
	return l.fault
}

// indexChanged is called when the index begins or ends to wait for room, or fails.
func (l *Ledger) indexChanged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.opened {
		return // Open judges by itself
	}
	if err := l.index.Failure(); err != nil {
		l.failLocked(&FaultError{fmt.Errorf("index of audit log %s: %w; the next start makes it again", l.cfg.Path, err)})
	}
	l.wake.Broadcast()
}
