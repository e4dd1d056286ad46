// Package ledger is the auditor's log: an append-only file of JSON lines.
//
// # The line
//
// An event is one line, in order of arrival:
//
//	{"seq":1,"event_id":"...","event_type":"task.created","occurred_at":"...",
//	 "data":{...},"metadata":{"correlation_id":"...","source":"task-api"},
//	 "attributes":{"datacontenttype":"application/json",...,"taskversion":1},
//	 "audited_at":"2025-01-15T10:30:01.000000Z"}
//
// without the line feeds and with exactly one at the end. Members always have
// this order and no spaces between them; attributes are sorted by name and hold
// every context attribute that has no member of its own. occurred_at and
// correlation_id are null when the event has none. data is absent when there is
// none, and is data_base64 when it is not JSON; LineData is the only rule by
// which data may differ from what was received. Nothing of the event is left out
// or written twice: ParseLine returns the event.
//
// # The guarantees
//
//   - Append returns without error after the lines are on disk: one write and
//     one fsync per batch, and only then an answer.
//   - An event, identified by source and id, is in the log once, for ever. The
//     same event again is a duplicate; other content under the same source and
//     id is a conflict.
//   - After a failed fsync nothing is acknowledged. After a failed write the log
//     is cut back to its last good length.
//   - Open removes a last write that was not finished, keeps the removed bytes
//     beside the log, and refuses a log that is damaged anywhere else.
//   - Before a batch is written and again before it is answered, the log's path
//     must still name the open file, and the file must have the length that was
//     written: what another program cut, renamed or appended is a fault.
//
// # The mark
//
// A tail may be an unfinished write only if none of it was acknowledged. How far
// that reached stands in a file beside the log, its name plus ".acked". It is
// written, not synced, between the fsync of a batch and its answers, and synced
// in the background at most once a second. A second fsync for each batch would
// halve the rate, and would buy little:
//
//   - The mark is never above what is durable, so it refuses no good log.
//   - Written data survives the end of the process however it comes: after a
//     kill the mark is exact, and a log shorter than it, or torn below it, is damage.
//   - After a power loss it may be up to a second old. In these bytes damage
//     still passes for an unfinished write, as it would without a mark; such
//     bytes are kept aside in any case.
//   - Whoever can write the log can write the mark. It defends against accidents
//     (truncation, rotation, half a restore), not against that person.
//
// A line that was altered into another valid line is not visible here: package
// tree compares the lines with what was signed.
//
// # The index
//
// What is known of the entries on disk is in an index beside the log, its name
// plus ".index": see package index. Open believes an index whose last line it finds in
// the log at the same place, and reads only the lines after that one; without
// such an index it reads the whole log and makes a new one. Then it checks the
// rest of the log, and the index against it, in the background: see check.
//
// An event is always in one of these, in this order:
//
//	inFlight   it is being looked for, waits for its batch, is being written, or
//	           is on disk and not in the index
//	the index  it is on disk
//
// A caller claims its event in inFlight before it looks into the index, and a
// claim is dropped only after the index has the event. So whoever does not find
// an event in inFlight finds it in the index, if it is on disk, without a lock
// over both.
package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

const (
	// maxLine bounds what is held in memory for one line.
	maxLine = 16 << 20
	// defaultMaxPending bounds the lines that wait to be written.
	defaultMaxPending = 64 << 20
	// defaultSegmentBytes is about two million events of a task.
	defaultSegmentBytes = 1 << 30
)

// Config says where the log is and what observes it.
type Config struct {
	// Path of the log. Its directory must exist.
	Path string

	// SegmentBytes is the length at which a file of the log is sealed and the next
	// begins (1 GiB).
	SegmentBytes int64

	// MaxPending is how many bytes may wait to be written (64 MiB). Entries beyond
	// that are refused with ErrBusy.
	MaxPending int

	// Now is the clock for audited_at (time.Now). Order and de-duplication do not use it.
	Now func() time.Time

	// OnSync receives how long each fsync took and how many entries it made
	// durable. It runs between batches and must not block.
	OnSync func(took time.Duration, entries int)

	// OnLines receives the SHA-256 of each line with its line feed, in order, after
	// the lines are durable and before they are answered. first is the number of the
	// first one. It must not block or keep leaves; its error is a fault.
	OnLines func(first int64, leaves [][32]byte) error

	// Wrap adds a layer over the log's file, for tests with failing disks.
	Wrap func(File) File

	// OnIndex receives how many bytes of how many Open has read into the index. It
	// runs in Open, often.
	OnIndex func(done, total int64)

	// OnCheck receives how far the background check is, often, and last done equal
	// to total. It runs in the check.
	OnCheck func(done, total int64)

	// OnRoll is called between the steps of a roll-over, for tests.
	OnRoll func()

	// OnMark receives the first error of a row when the mark cannot be written.
	// The log goes on: only what a later Open can notice is less.
	OnMark func(error)

	// OnClose is called by Close when nothing is appended any more, and before
	// another process may open the log: for what is kept beside it.
	OnClose func() error
}

// Ledger is an open log. Its methods may be called from any goroutine.
type Ledger struct {
	cfg       Config
	segments  segments
	mark      mark
	index     *index.Index
	versions  *versions
	begun     bool // Open began a new index
	checking  checking
	recovered Recovery
	running   sync.WaitGroup // the indexer and the check
	endCheck  context.CancelFunc

	// line and leaves belong to the goroutine that writes: the holder of busy.
	line   []byte
	leaves [][32]byte

	// The newest segment belongs to it as well.
	file   File
	place  *os.File // file without Wrap, to see what others did to it
	base   int64    // offset of its first byte in the log
	first  int64    // number of its first entry
	rollAt int64    // when the log has this length the next segment begins

	// mu guards all fields below. It is never held during a write, an fsync, a read
	// of the log or a call of the index.
	mu        sync.Mutex
	wake      *sync.Cond // a claim was enqueued or dropped; the indexer has work, or has done some
	busy      bool       // a goroutine writes, or has its turn
	gather    *batch     // the next batch to write; nil when nothing waits
	writing   *batch     // the batch being written
	pending   int        // bytes in those two batches
	inFlight  map[string]*claimed
	unindexed []*batch // durable, for the indexer
	backlog   int      // bytes in those, and in what it is working on
	marks     []place  // of the entries 1, 17, 33 ... that are not in the index
	indexed   int64    // the index has the entries 1 to this one
	gaps      int64    // version gaps, since the log began
	entries   int64    // number of entries on disk
	size      int64    // length of the log on disk
	full      error    // why the last batch had no room
	fault     error    // final; see FaultError
	failed    chan struct{}
	grown     chan struct{} // see Await; nil when nobody waits
	opened    bool          // Open is done: what happens to the index is a fault
	closed    bool
	ending    bool // the indexer ends when it has nothing to do
}

// place is where an entry begins.
type place struct{ seq, at int64 }

// An Outcome is the result for one entry. With Err nil the entry is on disk.
type Outcome struct {
	Seq        int64
	Duplicate  bool        // it was in the log, or another goroutine appended it at the same time
	VersionGap *VersionGap // nil when the task version follows the one before
	Err        error
}

// Open opens or creates the log, locks it, and reads what its index does not have
// yet: little after a crash, nothing after a Close, all of the log without an
// index. It fails with ErrLocked when another process has the log open, with
// ErrOriginal for a log of the original system, and with a *DamageError when what
// it reads is otherwise not what this package wrote. The rest is checked in the
// background: damage there closes Failed.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxPending == 0 {
		cfg.MaxPending = defaultMaxPending
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = defaultSegmentBytes
	}
	f, size, err := openLog(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	uncache(f.File, max(0, size-int64(cfg.MaxPending)))
	l := &Ledger{
		cfg: cfg, place: f.File,
		mark:     mark{path: cfg.Path + markSuffix, onErr: cfg.OnMark},
		inFlight: make(map[string]*claimed),
		failed:   make(chan struct{}),
	}
	l.wake = sync.NewCond(&l.mu)
	l.file = l.wrap(f)
	l.base, err = l.openSealed(f.File)
	l.segments.list = append(l.segments.list, segment{cfg.Path, l.base, l.file})
	if err == nil {
		err = l.load(ctx, l.base+size)
	}
	if err == nil {
		err = l.beginSegment()
	}
	if err == nil {
		// Each line that was found may be answered as a duplicate from here on.
		err = l.mark.begin(l.size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("audit log: %w", err), l.abandonIndex(err), l.segments.close())
	}
	l.recovered.Entries, l.recovered.VersionGaps = l.entries, l.gaps
	l.mu.Lock()
	l.opened = true
	l.mu.Unlock()
	l.indexChanged()
	l.running.Go(l.runIndexer)
	ctx, l.endCheck = context.WithCancel(context.WithoutCancel(ctx))
	l.running.Go(func() { l.runCheck(ctx) })
	return l, nil
}

func (l *Ledger) wrap(f *lockedFile) File {
	if l.cfg.Wrap == nil {
		return f
	}
	return l.cfg.Wrap(f)
}

// beginSegment notes where the newest segment begins.
func (l *Ledger) beginSegment() error {
	l.rollAt, l.first = l.base+l.cfg.SegmentBytes, l.entries+1
	if l.size == l.base {
		return nil
	}
	line, _, err := newLineReader(&l.segments, l.base, l.size, nil, 8<<10).next()
	if err != nil {
		return fmt.Errorf("read %s: %w", l.cfg.Path, err)
	}
	r, err := readRecord(line)
	l.first = r.seq
	return err
}

// Recovered returns what Open found.
func (l *Ledger) Recovered() Recovery { return l.recovered }

// Len is the number of entries on disk.
func (l *Ledger) Len() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.entries }

// VersionGaps is the number of entries with a VersionGap since the log began.
func (l *Ledger) VersionGaps() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.gaps }

// Failed is closed after an error from which the ledger cannot continue.
func (l *Ledger) Failed() <-chan struct{} { return l.failed }

// Fault is the *FaultError that closed Failed, or nil.
func (l *Ledger) Fault() error { l.mu.Lock(); defer l.mu.Unlock(); return l.fault }

// Run waits for ctx to end, or returns the fault that came before.
func (l *Ledger) Run(ctx context.Context) error {
	select {
	case <-l.failed:
		return l.Fault()
	case <-ctx.Done():
		return nil
	}
}

// Await waits for an entry above after to be on disk.
func (l *Ledger) Await(ctx context.Context, after int64) error {
	for {
		l.mu.Lock()
		if l.entries > after {
			l.mu.Unlock()
			return nil
		}
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-grown:
		case <-l.failed:
			return l.Fault()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Full is the error of the last write when there was no room, or nil.
func (l *Ledger) Full() error { l.mu.Lock(); defer l.mu.Unlock(); return l.full }

// fail ends the ledger; only the first fault counts.
func (l *Ledger) fail(fault *FaultError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(fault)
}

func (l *Ledger) failLocked(fault error) {
	if l.fault != nil {
		return
	}
	l.fault = fault
	close(l.failed)
	l.wake.Broadcast()
}

// Append makes the entries durable and returns the outcome of each. Their order
// is kept, and an error of one does not stop the others.
func (l *Ledger) Append(entries ...Entry) []Outcome {
	outs := make([]Outcome, len(entries))
	claims := make([]*claimed, len(entries))
	for i, e := range entries {
		r, err := render(e)
		if err != nil {
			outs[i].Err = err
			continue
		}
		claims[i] = &claimed{rendered: r, Entry: l.index.Identify(r.source, r.id, r.task, r.version, r.hasVersion)}
	}
	l.claim(claims, outs)
	for i, c := range claims {
		if c != nil && !outs[i].Duplicate {
			c.found = l.lookup(c)
		}
	}
	lead := l.admit(claims, outs)
	if lead != nil {
		<-lead.turn
		// Callers that the previous batch has just answered may still join this one:
		// with 64 callers a third fewer fsyncs.
		runtime.Gosched()
		l.write(lead)
	}
	for i, c := range claims {
		if c != nil && !l.settle(c, &outs[i]) {
			outs[i] = l.Append(entries[i])[0]
		}
	}
	return outs
}

// claim claims each event, or joins who claimed it before: claims then holds that
// one's, and the outcome says Duplicate. Claims are nil where the outcome is final.
func (l *Ledger) claim(claims []*claimed, outs []Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range claims {
		if c == nil {
			continue
		}
		if err := l.unable(); err != nil {
			outs[i].Err, claims[i] = err, nil
			continue
		}
		other := l.inFlight[c.key]
		if other == nil {
			l.inFlight[c.key] = c
			continue
		}
		outs[i].Duplicate = true
		if !bytes.Equal(other.content, c.content) {
			outs[i].Err = &ConflictError{}
		}
		other.joined, claims[i] = true, other
	}
}

// admit enqueues the events that lookup did not find, and drops the claims on the
// others. It returns the batch that the caller has to write, or nil.
func (l *Ledger) admit(claims []*claimed, outs []Outcome) (lead *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wake := false
	for i, c := range claims {
		if c == nil || outs[i].Duplicate {
			continue
		}
		wake = wake || c.joined
		outs[i] = c.found
		switch err := l.unable(); {
		case err != nil:
			outs[i] = Outcome{Err: err}
		case c.found != Outcome{}:
		case l.pending > 0 && l.pending+len(c.content) > l.cfg.MaxPending:
			outs[i] = Outcome{Err: ErrBusy}
		default:
			if b := l.enqueue(c); b != nil {
				lead = b
			}
			continue
		}
		c.dropped, claims[i] = true, nil
		delete(l.inFlight, c.key)
	}
	if wake {
		l.wake.Broadcast()
	}
	return lead
}

// unable returns why nothing can be appended, or nil. mu is held.
func (l *Ledger) unable() error {
	if l.fault != nil {
		return l.fault
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// settle waits until the entry's batch is done and fills in the outcome. It
// checks Fault again: an entry that was made durable just before another batch's
// fsync failed is not acknowledged either, and will be delivered once more. It
// returns false when who claimed the event did not enqueue it.
func (l *Ledger) settle(c *claimed, out *Outcome) bool {
	if out.Duplicate {
		l.mu.Lock()
		for c.batch == nil && !c.dropped {
			l.wake.Wait()
		}
		dropped := c.dropped
		l.mu.Unlock()
		if dropped {
			return false
		}
	}
	<-c.batch.done
	err := c.batch.err
	if err == nil {
		err = l.Fault()
	}
	var conflict *ConflictError
	switch {
	case err != nil:
		*out = Outcome{Err: err}
	case errors.As(out.Err, &conflict):
		*out = Outcome{Err: &ConflictError{Seq: c.Seq}}
	case out.Duplicate:
		out.Seq = c.Seq
	default:
		out.Seq, out.VersionGap = c.Seq, c.gap
	}
	return true
}

// Close waits for the batches in progress, flushes the index and releases the
// log. Later appends fail with ErrClosed.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	for l.busy {
		waitFor := l.gather
		if waitFor == nil {
			waitFor = l.writing
		}
		l.mu.Unlock()
		<-waitFor.done
		l.mu.Lock()
	}
	l.ending = true
	l.wake.Broadcast()
	l.mu.Unlock()
	l.endCheck()
	if l.index.Full() {
		l.index.Stop() // the indexer would wait for room
	}
	l.running.Wait()
	var beside error
	if l.cfg.OnClose != nil {
		beside = l.cfg.OnClose()
	}
	return errors.Join(beside, l.index.Close(), l.mark.close(), l.segments.close()) // the lock goes last
}
