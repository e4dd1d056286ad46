package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// soon is the number of lines that a start reads before it returns, about half a
// second. More are read by Run.
const soon = 1 << 18

// Open holds the log to its last checkpoint. It refuses a log that is shorter, whose
// last lines are others, or that the second place or a witness knows to be longer,
// with a *DamageError or a *ForkError.
//
// It takes the same time for any length: the tiles of the right edge lead to the root
// that was signed, and only the lines of the last tiles are compared with them. That
// all other lines are still the ones in the tiles is the work of a Checker.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	l := &Log{
		cfg: cfg, lines: cfg.Lines, edge: &Edge{},
		wake: make(chan struct{}, 1), failed: make(chan struct{}), changed: make(chan struct{}),
	}
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	for _, w := range cfg.Witnesses {
		l.followers = append(l.followers, toWitness(w))
	}
	if cfg.Second != nil {
		l.followers = append(l.followers, toSecond(cfg.Second))
	}
	if !l.restore {
		l.meet(ctx)
	}
	if err := l.Fault(); err != nil {
		return nil, err
	}
	notify(l.wake)
	l.handOn()
	return l, nil
}

// begin reads the checkpoint. A log without one gets that of the empty log.
func (l *Log) begin(ctx context.Context) error {
	keys, err := l.cfg.Keys()
	if err != nil {
		return err
	}
	signed, err := l.cfg.Store.Read(ctx, checkpointPath)
	if errors.Is(err, fs.ErrNotExist) {
		if l.cfg.Lines > 0 {
			l.cfg.Log.Warn("the audit log has no checkpoint: all of it is signed as it is now", "lines", l.cfg.Lines)
		}
		c := Checkpoint{keys.Origin(), l.edge.Tree()}
		if signed, err = c.Sign(keys.Signer); err == nil {
			err = l.cfg.Store.WriteCheckpoint(ctx, signed)
		}
	}
	if err != nil {
		return err
	}
	c, err := OpenCheckpoint(signed, keys.Verifiers...)
	if err != nil {
		return err
	}
	if c.Origin != keys.Origin() {
		return fmt.Errorf("the checkpoint is of the log %q, the signing key of %q", c.Origin, keys.Origin())
	}
	if c.N > l.cfg.Lines {
		return &DamageError{l.cfg.Lines + 1, fmt.Sprintf("the log ends after line %d, but %d lines were signed: %d are cut off", l.cfg.Lines, c.N, c.N-l.cfg.Lines)}
	}
	l.published, l.opened = signedTree{c, signed}, c
	return nil
}

// load makes the edge from the tiles or, when these are lost, from the log.
func (l *Log) load(ctx context.Context) error {
	c := l.published.Checkpoint
	edge, err := NewEdge(c.N, func(t tlog.Tile) ([]byte, error) { return ReadTile(ctx, l.cfg.Store, t) })
	if err == nil && edge.Tree() != c.Tree {
		err = errors.New("the tiles of the right edge do not lead to the root that was signed")
	}
	if errors.Is(err, fs.ErrPermission) {
		return err // the tiles are there
	}
	if err != nil {
		l.cfg.Log.Warn("tiles of the audit log are lost or damaged; they are made again from the log", "err", err)
		l.restore, l.checked = true, true
		if c.N > soon {
			return nil
		}
		if err := l.rebuild(ctx); err != nil {
			return err
		}
	} else {
		l.edge = edge
		if err := l.lastLines(ctx); err != nil {
			return err
		}
	}
	if l.cfg.Lines-c.N > soon {
		return nil
	}
	if _, err := l.advance(ctx); err != nil {
		return err
	}
	for _, t := range l.edge.Partial() { // for what the second place is compared with
		if err := writeTile(ctx, l.cfg.Store, t); err != nil {
			return err
		}
	}
	return nil
}

// rebuild makes the edge and the tiles of the checkpoint from the lines of the log,
// which must lead to its root.
func (l *Log) rebuild(ctx context.Context) error {
	said := time.Now()
	c := NewChecker(ctx, l.cfg.Store, l.published.Checkpoint, true)
	err := l.cfg.Source(ctx, 0, l.published.N, func(leaf [32]byte) error {
		if c.edge.size%(1<<14) == 0 && time.Since(said) > 5*time.Second {
			said = time.Now()
			l.cfg.Log.Info("making the tiles of the audit log again", "lines", c.edge.size, "of", l.published.N)
		}
		return c.Add(leaf)
	})
	if err == nil {
		err = c.Done()
	}
	if err != nil {
		return err
	}
	l.edge, l.restore = &c.edge, false
	return nil
}

// Check reads all lines that the checkpoint of the start covers and compares them
// with the tiles. It makes tiles again that were lost or damaged. A line that is not
// the one that was signed is the Fault.
func (l *Log) Check(ctx context.Context) error {
	if l.checked {
		return nil // the tiles were made from all of it
	}
	c := NewChecker(ctx, l.cfg.Store, l.opened, true)
	began, lines := time.Now(), l.length()
	err := l.cfg.Source(ctx, 0, l.opened.N, func(leaf [32]byte) error {
		if c.edge.size%(16*Width) == Width/2 { // appends come first
			rest := 2 * time.Since(began)
			if now := l.length(); now != lines {
				rest, lines = 10*rest, now
			}
			l.pause(ctx, min(rest, time.Second))
			began = time.Now()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return c.Add(leaf)
	})
	if err == nil {
		err = c.Done()
	}
	var damage *DamageError
	if errors.As(err, &damage) {
		l.fail(err)
	}
	for _, t := range c.Tiles() {
		l.cfg.Log.Warn("tile of the audit log made again from the log", "tile", t.Path, "reason", t.Reason)
	}
	return err
}

// lastLines compares the lines of the last tiles with the hashes that were signed.
func (l *Log) lastLines(ctx context.Context) error {
	c := l.published.Checkpoint
	from := max(0, (c.N-1)/Width*Width-Width)
	if c.N == 0 {
		return nil
	}
	index := make([]int64, c.N-from)
	for i := range index {
		index[i] = tlog.StoredHashIndex(0, from+int64(i))
	}
	signed, err := hashes(ctx, l.cfg.Store, c.Tree).ReadHashes(index)
	if err != nil {
		return nil //nolint:nilerr // a full tile is lost: the Checker makes it again
	}
	var got []tlog.Hash
	err = l.cfg.Source(ctx, from, min(c.N+window, l.cfg.Lines), func(leaf [32]byte) error {
		got = append(got, MerkleLeaf(leaf))
		return nil
	})
	if err != nil {
		return err
	}
	for i := range signed {
		if i >= len(got) || got[i] != signed[i] {
			return &DamageError{from + int64(i) + 1, describe(got[min(i, len(got)):], signed[i:])}
		}
	}
	return nil
}

// meet asks the second place and the witnesses what they have seen, all at the same
// time. One that does not answer soon is asked again by Run.
func (l *Log) meet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range l.followers {
		wg.Go(func() { f.meet(ctx, l) })
	}
	wg.Wait()
}
