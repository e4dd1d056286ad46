package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

// A batch is what one write and one fsync make durable.
type batch struct {
	claims []*claimed
	bytes  int           // of their contents
	turn   chan struct{} // closed when the goroutine of its first entry has to write it
	done   chan struct{} // closed when it is durable or failed
	err    error         // set before done is closed
	head   index.Head    // of an index that has the batch; set by the writer
}

// claimed is an event that no other goroutine may write: it is being looked for,
// waits, is being written, or is on disk and not in the index yet. The writer
// sets Seq, At and gap before the batch is done.
type claimed struct {
	rendered
	index.Entry
	gap   *VersionGap
	found Outcome // what the index and the log say; zero for a new event. Its owner's

	// Guarded by Ledger.mu.
	batch   *batch // nil while the event is being looked for
	dropped bool   // it was known, or refused: nothing waits for it any more
	joined  bool   // another goroutine waits for batch or dropped
}

// enqueue adds the entry to the batch that collects. The caller whose entry
// begins a batch writes it: at once when the log is idle, else when the previous
// writer is done. mu is held.
func (l *Ledger) enqueue(c *claimed) (lead *batch) {
	if l.gather == nil {
		l.gather = &batch{turn: make(chan struct{}), done: make(chan struct{})}
		lead = l.gather
		if !l.busy {
			l.busy = true
			close(lead.turn)
		}
	}
	c.batch = l.gather
	c.batch.claims = append(c.batch.claims, c)
	c.batch.bytes += len(c.content)
	l.pending += len(c.content)
	return lead
}

// write makes one batch durable and passes busy, which the caller holds, to the
// next batch.
func (l *Ledger) write(b *batch) {
	l.mu.Lock()
	l.gather, l.writing = nil, b
	err := l.awaitIndexer()
	next, size := l.entries+1, l.size
	l.mu.Unlock()

	var grown int64
	if err == nil {
		err = l.inPlace(size)
	}
	if err == nil && size >= l.rollAt {
		err = l.roll(l.first, size)
		if l.base == size {
			l.first = next
		}
	}
	if err == nil {
		grown = l.compose(b, next, size)
		err = l.store(b, size)
	}
	if err == nil {
		err = l.inPlace(size + grown)
	}
	if err == nil && l.cfg.OnLines != nil {
		if err = l.cfg.OnLines(next, l.leaves); err != nil {
			err = &FaultError{err}
		}
	}
	if err == nil {
		l.mark.raise(size + grown)
	}
	l.mu.Lock()
	if err == nil {
		l.publish(b)
	}
	l.finish(b, err)
	l.mu.Unlock()
}

// compose renders the batch into l.line, in order of arrival.
func (l *Ledger) compose(b *batch, seq, size int64) (grown int64) {
	l.line, l.leaves = l.line[:0], l.leaves[:0]
	now := l.cfg.Now()
	from := 0
	for i, c := range b.claims {
		from = len(l.line)
		c.Seq, c.At = seq+int64(i), size+int64(from)
		l.line = appendLine(l.line, c.Seq, c.content, now)
		if l.cfg.OnLines != nil {
			l.leaves = append(l.leaves, sha256.Sum256(l.line[from:]))
		}
	}
	grown = int64(len(l.line))
	b.head = index.Head{Seq: seq + int64(len(b.claims)) - 1, From: size + int64(from), End: size + grown, Line: sha256.Sum256(l.line[from : grown-1])}
	return grown
}

// store is one write and one fsync:
//
//	write ok, fsync ok         durable
//	write failed, no room      cut back to size; a later batch may succeed
//	write failed otherwise     a fault
//	cut or fsync failed        a fault; fsync is never retried, because the second
//	                           one may report success for lost pages
//
// Gaps between versions are looked for while the disk works.
func (l *Ledger) store(b *batch, size int64) error {
	if _, err := l.file.Write(l.line); err != nil {
		if cut := l.file.Truncate(size - l.base); cut != nil {
			return &FaultError{fmt.Errorf("cut audit log %s back to %d bytes: %w", l.cfg.Path, size-l.base, errors.Join(cut, err))}
		}
		if noRoom(err) {
			return &FullError{err}
		}
		return &FaultError{fmt.Errorf("write audit log: %w", err)}
	}
	var gaps error
	var wg sync.WaitGroup
	wg.Go(func() { gaps = l.noteVersions(b) })
	defer wg.Wait()
	began := time.Now()
	if err := l.file.Sync(); err != nil {
		return &FaultError{fmt.Errorf("fsync audit log: %w", err)}
	}
	if l.cfg.OnSync != nil {
		l.cfg.OnSync(time.Since(began), len(b.claims))
	}
	wg.Wait()
	if gaps != nil {
		return &FaultError{fmt.Errorf("audit log: %w", gaps)}
	}
	return nil
}

func (l *Ledger) noteVersions(b *batch) (err error) {
	for _, c := range b.claims {
		if !c.Versioned {
			continue
		}
		if c.gap, err = l.versions.note(&c.Entry); err != nil {
			return err
		}
	}
	return nil
}

// publish gives a durable batch to the indexer. Its entries stay claimed until
// the index has them. mu is held.
func (l *Ledger) publish(b *batch) {
	for _, c := range b.claims {
		if c.gap != nil {
			l.gaps++
		}
		l.note(c.Seq, c.At)
	}
	l.size = b.head.End
	b.head.Gaps = l.gaps
	l.unindexed = append(l.unindexed, b)
	l.backlog += b.bytes
	l.wake.Broadcast()
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// note adds an entry that is on disk. mu is held, or no other goroutine has l yet.
func (l *Ledger) note(seq, at int64) {
	if (seq-1)%index.MarkEvery == 0 {
		l.marks = append(l.marks, place{seq, at})
	}
	l.entries = seq
}

// finish releases everyone who waits for the batch and passes the log on. mu is held.
func (l *Ledger) finish(b *batch, err error) {
	var full *FullError
	var fault *FaultError
	switch {
	case errors.As(err, &fault):
		l.failLocked(err)
	case errors.As(err, &full):
		l.full = err
	case err == nil:
		l.full = nil
	}
	if err != nil {
		for _, c := range b.claims {
			delete(l.inFlight, c.key)
		}
	}
	l.pending -= b.bytes
	b.err = err
	close(b.done)
	if l.gather != nil {
		close(l.gather.turn)
		return
	}
	l.busy, l.writing = false, nil
	if cap(l.line) > 1<<20 {
		l.line = nil // do not keep the memory of one large batch for ever
	}
}
