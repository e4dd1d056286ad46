// Package tree proves what stands in the audit log: an RFC 6962 Merkle tree over
// its lines, in tiles, with signed checkpoints.
//
// The formats are those of C2SP: tlog-tiles, tlog-checkpoint, signed-note,
// tlog-cosignature, tlog-witness and tlog-proof. The mathematics is that of
// golang.org/x/mod/sumdb.
//
// # The order of effects
//
//	line written, fsync      the line is in the log, and may be answered
//	Append                   its leaf is in memory
//	tiles written            not synced
//	checkpoint signed        over leaves that were appended, so over durable lines only
//	checkpoint synced        aside, then renamed
//	witnesses, second place  see only what is the checkpoint here
//
// The log is the truth and each step follows from the one before it, so a crash
// between any two of them loses nothing: the next start makes the leaves and tiles
// again from the lines behind the last checkpoint. A tile that a power loss left
// incomplete is made again as well; one with other hashes is damage. A checkpoint
// can be older than the log, never newer, so a log that is shorter than its
// checkpoint was cut.
//
// None of this delays an append: Append copies 32 bytes for each line, and a
// goroutine of its own does the rest, at once when the log is idle and once a second
// when it is busy.
package tree

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const (
	// defaultEvery is the least time between two checkpoints.
	defaultEvery = time.Second
	// maxQueue bounds the leaves in memory. What is beyond is read from the log again.
	maxQueue = 1 << 20
	// maxPending is the number of full tiles that are held before they are written.
	maxPending = 64
)

// A Source reads the log: it calls yield with the leaf of each line after the given
// one, in order, up to a line. It may end early when the log has fewer lines.
type Source func(ctx context.Context, after, upTo int64, yield func(leaf [32]byte) error) error

// Config says where tree and log are.
type Config struct {
	Store  Store
	Source Source

	// Lines is the number of lines of the log. They must be durable.
	Lines int64

	// Keys returns the keys in force. It is called for each checkpoint.
	Keys func() (*Keys, error)

	Witnesses []Witness
	Second    Place        // nil for none
	Client    *http.Client // for the witnesses

	Log *slog.Logger

	// Every is the least time between two checkpoints (1 s).
	Every time.Duration
}

// A Log is the tree of one log. Its methods may be called from any goroutine.
type Log struct {
	cfg     Config
	wake    chan struct{} // of Run; holds one
	failed  chan struct{}
	signing sync.Mutex // of the checkpoint in the store

	// mu guards the fields below. It is never held during I/O.
	mu        sync.Mutex
	queue     [][32]byte // the leaves of the last lines
	lines     int64      // number of lines of the log
	published signedTree
	changed   chan struct{} // closed when published changes
	fault     error

	opened  Checkpoint // what the log was held to at the start
	checked bool       // all of it was, then

	// The rest belongs to Open, then to Run.
	edge      *Edge
	pending   []Tile    // full tiles, not written yet
	restore   bool      // the edge has to be made from the log first
	followers []*follow // the witnesses and the second place
}

type signedTree struct {
	Checkpoint
	note []byte
}

// Append adds the leaves of lines that are durable, in order; first is the number of
// the first one. It does no I/O, and keeps no reference to leaves.
func (l *Log) Append(first int64, leaves [][32]byte) {
	l.mu.Lock()
	if first != l.lines+1 || len(l.queue)+len(leaves) > maxQueue {
		l.queue = nil // Run reads them from the log
	} else {
		l.queue = append(l.queue, leaves...)
	}
	l.lines = first - 1 + int64(len(leaves))
	l.mu.Unlock()
	notify(l.wake)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake
	}
}

// Failed is closed when the log turns out not to be the one that was signed.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Fault is the error that closed Failed, or nil.
func (l *Log) Fault() error { l.mu.Lock(); defer l.mu.Unlock(); return l.fault }

// length is the number of lines of the log.
func (l *Log) length() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.lines }

func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		l.fault = err
		close(l.failed)
	}
}

// Checkpoint returns the newest signed checkpoint.
func (l *Log) Checkpoint() ([]byte, Checkpoint) {
	p, _ := l.current()
	return p.note, p.Checkpoint
}

func (l *Log) current() (signedTree, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.published, l.changed
}

// Prove proves a line against the newest checkpoint. It waits for the checkpoint
// that covers a line of the log.
func (l *Log) Prove(ctx context.Context, line int64) (Proof, error) {
	for {
		p, changed := l.current()
		if line <= p.N {
			return Prove(ctx, l.cfg.Store, p.note, p.Checkpoint, line)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Proof{}, ctx.Err()
		}
	}
}

// Run writes tiles and checkpoints until ctx ends, which must be after the last
// Append; then it writes the last ones. It returns Fault.
func (l *Log) Run(ctx context.Context) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	for _, f := range l.followers {
		wg.Go(func() { f.run(following, l) })
	}
	failing := false
	for ctx.Err() == nil && l.Fault() == nil {
		began := time.Now()
		if l.step(ctx, &failing) {
			notify(l.wake)
		}
		l.pause(ctx, l.cfg.Every-time.Since(began))
		select {
		case <-l.wake:
		case <-l.failed:
		case <-ctx.Done():
		}
	}
	last := context.WithoutCancel(ctx)
	if l.Fault() == nil && !l.behind() {
		l.step(last, &failing)
	}
	stop()
	wg.Wait()
	if l.Fault() == nil {
		for _, f := range l.followers {
			wg.Go(func() { _ = f.try(last, l, lastWait) }) // the next start hands it on
		}
		wg.Wait()
	}
	return l.Fault()
}

// step is one round of Run. It reports whether there is more to do.
func (l *Log) step(ctx context.Context, failing *bool) (again bool) {
	more, err := l.advance(ctx)
	if p, _ := l.current(); err == nil && l.edge.size > p.N {
		err = l.publish(ctx)
	}
	var damage *DamageError
	switch {
	case errors.As(err, &damage):
		l.fail(err)
	case err != nil && ctx.Err() == nil:
		if !*failing {
			l.cfg.Log.Error("checkpoint of the audit log not written; the log goes on", "err", err)
		}
		*failing = true
		return true
	case err == nil:
		*failing = false
	}
	return more
}

func (l *Log) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.failed:
	case <-ctx.Done():
	}
}

// behind reports whether Run would have to read the log, which it does not do for
// its last checkpoint.
func (l *Log) behind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.restore || l.edge.size < l.lines-int64(len(l.queue))
}

// advance adds the lines that are not in the tree yet. It reports whether there are more.
func (l *Log) advance(ctx context.Context) (more bool, err error) {
	if l.restore {
		if err := l.rebuild(ctx); err != nil {
			return false, err
		}
	}
	l.mu.Lock()
	queue, from := l.queue, l.lines-int64(len(l.queue))
	l.queue = nil
	l.mu.Unlock()

	if err := l.flush(ctx); err != nil {
		return false, err
	}
	if l.edge.size < from {
		if err := l.catchUp(ctx, from); err != nil || l.edge.size < from {
			return true, err
		}
	}
	for _, leaf := range queue[l.edge.size-from:] {
		if err := l.add(ctx, leaf); err != nil {
			return false, err
		}
	}
	return false, l.flush(ctx)
}

func (l *Log) catchUp(ctx context.Context, upTo int64) error {
	began := l.edge.size
	said := time.Now()
	return l.cfg.Source(ctx, l.edge.size, upTo, func(leaf [32]byte) error {
		if l.edge.size%(1<<14) == 0 && time.Since(said) > 5*time.Second {
			said = time.Now()
			l.cfg.Log.Info("adding the lines of the audit log to its tree", "lines", l.edge.size-began, "of", upTo-began)
		}
		return l.add(ctx, leaf)
	})
}

func (l *Log) add(ctx context.Context, leaf [32]byte) error {
	l.pending = append(l.pending, l.edge.Append(leaf)...)
	if len(l.pending) >= maxPending {
		return l.flush(ctx)
	}
	return nil
}

// flush writes the full tiles. Those that could not be written stay for the next time.
func (l *Log) flush(ctx context.Context) error {
	for len(l.pending) > 0 {
		if err := writeTile(ctx, l.cfg.Store, l.pending[0]); err != nil {
			return err
		}
		l.pending = l.pending[1:]
	}
	l.pending = nil
	return nil
}

// publish signs the tree as it is: the tiles of the checkpoint first, the
// checkpoint second.
func (l *Log) publish(ctx context.Context) error {
	keys, err := l.cfg.Keys()
	if err != nil {
		return err
	}
	if p, _ := l.current(); keys.Origin() != p.Origin {
		return errors.New("the signing key has another origin than the log: " + keys.Origin())
	}
	c := Checkpoint{keys.Origin(), l.edge.Tree()}
	signed, err := c.Sign(keys.Signer)
	if err != nil {
		return err
	}
	for _, t := range l.edge.Partial() {
		if err := writeTile(ctx, l.cfg.Store, t); err != nil {
			return err
		}
	}
	l.signing.Lock()
	err = l.cfg.Store.WriteCheckpoint(ctx, signed)
	if err == nil {
		l.set(signedTree{c, signed})
	}
	l.signing.Unlock()
	l.handOn()
	return err
}

func (l *Log) handOn() {
	for _, f := range l.followers {
		notify(f.wake)
	}
}

func (l *Log) set(p signedTree) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = p
	close(l.changed)
	l.changed = make(chan struct{})
}

// cosign adds cosignatures to the checkpoint, unless there is a newer one.
func (l *Log) cosign(ctx context.Context, on signedTree, sigs []note.Signature) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	p, _ := l.current()
	if p.Checkpoint != on.Checkpoint {
		return nil
	}
	_, err := note.Open(p.note, nil)
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return err
	}
	n := unverified.Note
	n.UnverifiedSigs = replaced(n.UnverifiedSigs, sigs)
	signed, err := note.Sign(n)
	if err != nil {
		return err
	}
	if err := l.cfg.Store.WriteCheckpoint(ctx, signed); err != nil {
		return err
	}
	l.set(signedTree{p.Checkpoint, signed})
	l.handOn() // to the second place; a witness is not asked twice
	return nil
}

// replaced is the list with one signature for each key, the newer one.
func replaced(old, new []note.Signature) []note.Signature {
	var all []note.Signature
	for _, s := range old {
		keep := true
		for _, n := range new {
			keep = keep && (s.Name != n.Name || s.Hash != n.Hash)
		}
		if keep {
			all = append(all, s)
		}
	}
	return append(all, new...)
}
