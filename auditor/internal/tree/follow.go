package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	startWait = time.Second      // for all of them together, at the start
	callWait  = 5 * time.Second  // for one request
	lastWait  = 2 * time.Second  // for the last one of all, at the end
	mostWait  = 60 * time.Second // between two tries
)

// follow hands checkpoints on to a witness, or to the second place. It always takes
// the newest one, and what fails is tried again: nothing waits for it.
type follow struct {
	where  string
	wake   chan struct{}
	send   func(ctx context.Context, l *Log, p signedTree) error
	second Place      // nil for a witness
	met    bool       // it has agreed with this log since the start
	sent   signedTree // the last one that it took
}

func (f *follow) run(ctx context.Context, l *Log) {
	wait := time.Duration(0)
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		err := f.try(ctx, l, callWait)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = 0
			continue
		}
		if wait == 0 {
			l.cfg.Log.Warn("checkpoint not handed on; it is tried again", "to", f.where, "err", err)
		}
		wait = min(max(2*wait, time.Second), mostWait)
		l.pause(ctx, wait)
		notify(f.wake)
	}
}

// try hands the newest checkpoint on. Only the first contact can tell that the log
// is another one: from then on this process alone extends what the other has seen.
func (f *follow) try(ctx context.Context, l *Log, wait time.Duration) error {
	p, _ := l.current()
	if f.met && f.sent.Checkpoint == p.Checkpoint && (f.second == nil || bytes.Equal(f.sent.note, p.note)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := f.send(ctx, l, p)
	var fork *ForkError
	if errors.As(err, &fork) && !f.met {
		l.fail(err)
	}
	if err == nil {
		f.met, f.sent = true, p
	}
	return err
}

// meet is the first contact, before anything new is signed.
func (f *follow) meet(ctx context.Context, l *Log) {
	if f.second == nil {
		_ = f.try(ctx, l, startWait) // Run tries again, and logs
		return
	}
	err := l.holdTo(ctx, f.second, l.edge.Tree())
	var fork *ForkError
	if errors.As(err, &fork) {
		l.fail(err)
	}
	f.met = err == nil
}

func toWitness(w Witness) *follow {
	f := &follow{where: "witness " + w.Name, wake: make(chan struct{}, 1)}
	f.send = func(ctx context.Context, l *Log, p signedTree) error {
		sigs, err := w.add(ctx, l.cfg.Client, p.note, p.N, f.sent.N, func(old int64) (tlog.TreeProof, error) {
			return tlog.ProveTree(p.N, old, hashes(ctx, l.cfg.Store, p.Tree))
		})
		var ahead *aheadError
		if errors.As(err, &ahead) && ahead.size > l.length() {
			return &ForkError{f.where, fmt.Sprintf("has seen %d lines of this log, which has %d: it was cut or rolled back", ahead.size, l.length())}
		}
		if err != nil {
			return err
		}
		return l.cosign(ctx, p, sigs)
	}
	return f
}

func toSecond(place Place) *follow {
	f := &follow{where: "AUDIT_CHECKPOINT_URL", wake: make(chan struct{}, 1), second: place}
	f.send = func(ctx context.Context, l *Log, p signedTree) error {
		if !f.met {
			if err := l.holdTo(ctx, place, p.Tree); err != nil {
				return err
			}
		}
		return place.Put(ctx, p.note)
	}
	return f
}

// holdTo compares a tree of the log with the copy in the second place, which is not
// overwritten before. The tiles of the tree must be in the store.
func (l *Log) holdTo(ctx context.Context, place Place, tree tlog.Tree) error {
	const where = "the checkpoint at AUDIT_CHECKPOINT_URL"
	signed, err := place.Get(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		l.cfg.Log.Info("no checkpoint at AUDIT_CHECKPOINT_URL yet", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	keys, err := l.cfg.Keys()
	if err != nil {
		return err
	}
	c, err := OpenCheckpoint(signed, keys.Verifiers...)
	if err != nil {
		return &ForkError{where, "is not one of this log: " + err.Error()}
	}
	switch lines := l.length(); {
	case c.N > lines:
		return &ForkError{where, fmt.Sprintf("covers %d lines of this log, which has %d: it was cut or rolled back", c.N, lines)}
	case c.N > tree.N:
		return fmt.Errorf("%d lines have to be added to the tree before it can be compared", c.N-tree.N)
	case c.N == 0:
		return nil
	}
	root := tree.Hash
	if c.N < tree.N {
		if root, err = tlog.TreeHash(c.N, hashes(ctx, l.cfg.Store, tree)); err != nil {
			return err
		}
	}
	if root != c.Hash {
		return &ForkError{where, fmt.Sprintf("covers %d lines that are not the first %d of this log: it was altered or rolled back", c.N, c.N)}
	}
	return nil
}
