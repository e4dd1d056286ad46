package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/retry"
)

// published is the tree of a log in a database. Of all auditors one writes it, the
// one that holds an advisory lock, and the next takes over when it is gone; all of
// them read it from there.
//
// The leaf of a line is stored with it, in its transaction. Tiles and checkpoints
// follow: they are made of what is committed, so none is ever ahead of the log, and
// whoever leads next makes those that are missing.
type published struct {
	service *Service
	ledger  *pgledger.Ledger
	config  tree.Config // of each term, without store and lines
	stop    context.CancelFunc
	wg      sync.WaitGroup
	failed  chan struct{}

	mu    sync.Mutex
	fault error
}

// databaseTiles reads the tree that any auditor has written.
type databaseTiles struct{ *pgledger.Ledger }

func (d databaseTiles) Read(ctx context.Context, path string) ([]byte, error) {
	return d.ReadTile(ctx, path)
}
func (databaseTiles) WriteTile(context.Context, string, []byte) error { return errReader }
func (databaseTiles) WriteCheckpoint(context.Context, []byte) error   { return errReader }

var errReader = errors.New("only the auditor that leads writes the tree")

// openPublished holds the log to its checkpoint.
func (s *Service) openPublished(ctx context.Context, l *pgledger.Ledger) (*published, error) {
	p := &published{service: s, ledger: l, failed: make(chan struct{})}
	keys, err := openKeys(ctx, s.config.Tree.KeyFile, "", databaseTiles{l}, s.log)
	if err != nil {
		return nil, err
	}
	p.config = tree.Config{Source: l.Leaves, Keys: keys, Witnesses: s.config.Tree.Witnesses, Client: newTreeClient(), Log: s.log}
	if s.config.Tree.SecondPlace != "" {
		if p.config.Second, err = tree.ParsePlace(s.config.Tree.SecondPlace, p.config.Client); err != nil {
			return nil, fmt.Errorf("%s: %w", checkpointURL, err)
		}
	}
	_, c, err := p.newest(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nobody has led yet
		return nil, err
	}
	lines, err := l.End(ctx) // after the checkpoint, which others replace
	if err != nil {
		return nil, err
	}
	if c.N > lines {
		return nil, fmt.Errorf("audit database: it has %d entries, but %d were signed: %d are cut off; restore it from a backup", lines, c.N, c.N-lines)
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.wg.Go(func() { p.lead(ctx) })
	return p, nil
}

// newest is the last checkpoint that any auditor has signed.
func (p *published) newest(ctx context.Context) ([]byte, tree.Checkpoint, error) {
	signed, err := p.ledger.ReadTile(ctx, "checkpoint")
	if err != nil {
		return nil, tree.Checkpoint{}, err
	}
	keys, err := p.config.Keys()
	if err != nil {
		return nil, tree.Checkpoint{}, err
	}
	c, err := tree.OpenCheckpoint(signed, keys.Verifiers...)
	return signed, c, err
}

// lead takes one term after the other.
func (p *published) lead(ctx context.Context) {
	backoff := retry.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
	said := ""
	for ctx.Err() == nil {
		err := p.term(ctx, backoff.Reset)
		var damage *tree.DamageError
		var altered *pgledger.SchemaError
		switch {
		case errors.As(err, &damage), errors.As(err, &altered):
			p.fail(err)
			return
		case err != nil && ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			p.service.log.Error("checkpoint of the audit log not written; the log goes on", "err", err)
		}
		_ = backoff.Wait(ctx) // the loop looks
	}
}

// term waits for the others and writes the tree until something fails.
func (p *published) term(ctx context.Context, begun func()) error {
	t, err := p.ledger.Lead(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	cfg := p.config
	cfg.Store = pointedTree(t)
	if cfg.Lines, err = p.ledger.End(ctx); err != nil {
		return err
	}
	log, err := tree.Open(ctx, cfg)
	if err != nil {
		return err
	}
	begun()
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = log.Run(ctx); stop() }) // Fault has its error
	wg.Go(func() {
		if err := log.Check(ctx); err != nil && ctx.Err() == nil && log.Fault() == nil {
			p.service.log.Error("audit log not compared with its tree", "err", err)
		}
	})
	wg.Go(func() {
		select {
		case <-t.Over():
		case <-ctx.Done():
		}
		stop()
	})
	for lines := cfg.Lines; ; {
		if err := p.ledger.Await(ctx, lines); err != nil {
			return log.Fault()
		}
		lines = p.ledger.Len()
		log.Append(lines+1, nil) // it reads them, also those of other auditors
	}
}

func (p *published) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = err
	close(p.failed)
}

func (p *published) Failed() <-chan struct{}  { return p.failed }
func (p *published) Fault() error             { p.mu.Lock(); defer p.mu.Unlock(); return p.fault }
func (p *published) VKeys() ([]string, error) { return vkeys(p.config.Keys) }
func (p *published) Store() tree.Store        { return databaseTiles{p.ledger} }

// Signed is the newest checkpoint.
func (p *published) Signed(ctx context.Context) ([]byte, error) {
	return p.ledger.ReadTile(ctx, "checkpoint")
}

// Covered is how many entries the newest checkpoint covers.
func (p *published) Covered(ctx context.Context) (int64, error) {
	_, c, err := p.newest(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return c.N, err
}

// Prove waits for the checkpoint that covers the line: another auditor may sign it.
func (p *published) Prove(ctx context.Context, line int64) (tree.Proof, error) {
	for {
		signed, c, err := p.newest(ctx)
		switch {
		case err == nil && line <= c.N:
			return tree.Prove(ctx, p.Store(), signed, c, line)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return tree.Proof{}, err
		}
		if err := retry.Pause(ctx, 100*time.Millisecond); err != nil {
			return tree.Proof{}, err
		}
	}
}

// Close lets another auditor lead. The log is closed after it.
func (p *published) Close() error {
	p.stop()
	p.wg.Wait()
	p.config.Client.CloseIdleConnections()
	return nil
}
