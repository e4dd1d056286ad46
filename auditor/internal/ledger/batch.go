package ledger

import (
	"errors"
	"fmt"
	"time"
)

// A batch is what one write and one fsync make durable.
type batch struct {
	claims []*claimed
	turn   chan struct{} // closed when the goroutine of its first entry has to write it
	done   chan struct{} // closed when it is durable or failed
	err    error         // set before done is closed
}

// claimed is a new entry that is not on disk yet. The writer sets seq and gap
// before the batch is done.
type claimed struct {
	rendered
	hash  uint64
	batch *batch
	seq   int64
	gap   *VersionGap
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
	l.gather.claims = append(l.gather.claims, c)
	l.inFlight[c.key] = c
	l.pending += len(c.content)
	return lead
}

// write makes one batch durable and passes busy, which the caller holds, to the
// next batch.
func (l *Ledger) write(b *batch) {
	l.mu.Lock()
	l.gather, l.writing = nil, b
	err, next, size := l.fault, l.entries+1, l.size
	l.mu.Unlock()

	var offsets []int64
	var grown int64
	if err == nil {
		err = l.inPlace(size)
	}
	if err == nil {
		offsets, grown = l.compose(b, next, size)
		err = l.store(b, size)
	}
	if err == nil {
		err = l.inPlace(size + grown)
	}
	if err == nil {
		l.mark.raise(size + grown)
	}
	l.mu.Lock()
	if err == nil {
		l.publish(b, offsets, size+grown)
	}
	l.finish(b, err)
	l.mu.Unlock()
}

// compose renders the batch into l.line, in order of arrival.
func (l *Ledger) compose(b *batch, seq, size int64) (offsets []int64, grown int64) {
	l.line = l.line[:0]
	now := l.cfg.Now()
	offsets = make([]int64, len(b.claims))
	for i, c := range b.claims {
		offsets[i] = size + int64(len(l.line))
		c.seq = seq + int64(i)
		l.line = appendLine(l.line, c.seq, c.content, now)
	}
	return offsets, int64(len(l.line))
}

// store is one write and one fsync:
//
//	write ok, fsync ok         durable
//	write failed, no room      cut back to size; a later batch may succeed
//	write failed otherwise     a fault
//	cut or fsync failed        a fault; fsync is never retried, because the second
//	                           one may report success for lost pages
func (l *Ledger) store(b *batch, size int64) error {
	if _, err := l.file.Write(l.line); err != nil {
		if cut := l.file.Truncate(size); cut != nil {
			return &FaultError{fmt.Errorf("cut audit log %s back to %d bytes: %w", l.cfg.Path, size, errors.Join(cut, err))}
		}
		if noRoom(err) {
			return &FullError{err}
		}
		return &FaultError{fmt.Errorf("write audit log: %w", err)}
	}
	began := time.Now()
	if err := l.file.Sync(); err != nil {
		return &FaultError{fmt.Errorf("fsync audit log: %w", err)}
	}
	if l.cfg.OnSync != nil {
		l.cfg.OnSync(time.Since(began), len(b.claims))
	}
	return nil
}

// publish adds a durable batch to the index. mu is held.
func (l *Ledger) publish(b *batch, offsets []int64, size int64) {
	for i, c := range b.claims {
		if c.task != "" {
			task := l.versions.hash([]byte(c.key.source), []byte(c.task))
			if c.gap = l.versions.note(task, c.version); c.gap != nil {
				l.gaps++
			}
		}
		l.note(c.hash, c.seq, offsets[i])
	}
	l.size = size
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// note adds an entry that is on disk. mu is held, or no other goroutine has l yet.
func (l *Ledger) note(hash uint64, seq, offset int64) {
	if (seq-1)%markEvery == 0 {
		l.marks = append(l.marks, offset)
	}
	l.index.add(hash, seq)
	l.entries = seq
}

// finish releases everyone who waits for the batch and passes the log on. mu is held.
func (l *Ledger) finish(b *batch, err error) {
	var full *FullError
	var fault *FaultError
	switch {
	case errors.As(err, &fault) && l.fault == nil:
		l.fault = err
		close(l.failed)
	case errors.As(err, &full):
		l.full = err
	case err == nil:
		l.full = nil
	}
	for _, c := range b.claims {
		delete(l.inFlight, c.key)
		l.pending -= len(c.content)
	}
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
