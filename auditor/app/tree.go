package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/httpd"
)

// prover is the tree of the log, for those who ask.
type prover interface {
	Signed(ctx context.Context) ([]byte, error) // the newest checkpoint
	Covered(ctx context.Context) (int64, error) // entries that it covers, 0 before the first
	Prove(ctx context.Context, line int64) (tree.Proof, error)
	Store() tree.Store
	VKeys() ([]string, error) // of the keys that are accepted, that which signs first
	Failed() <-chan struct{}  // closed when the log is not the one that was signed
	Fault() error
	Close() error
}

// proofs is the tree beside a file, with what it needs to run.
type proofs struct {
	*tree.Log
	store  tree.Store
	keys   func() (*tree.Keys, error)
	client *http.Client // to the witnesses and the second place
	stop   context.CancelFunc
	wg     sync.WaitGroup
	close  func() error
}

// newTreeClient follows no redirects: what signs for this log is where its operator said.
func newTreeClient() *http.Client {
	return &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// openTree holds the log to its checkpoint. The tree is in the folder of the log.
func (s *Service) openTree(ctx context.Context, l *ledger.Ledger) (*proofs, error) {
	folder, err := tree.OpenFolder(filepath.Dir(s.config.Path))
	if err != nil {
		return nil, err
	}
	p := &proofs{store: pointedTree(folder), client: newTreeClient(), close: folder.Close}
	if err := s.startTree(ctx, p, l); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return p, nil
}

func (s *Service) startTree(ctx context.Context, p *proofs, l *ledger.Ledger) error {
	keys, err := openKeys(ctx, s.config.Tree.KeyFile, s.config.Path, p.store, s.log)
	if err != nil {
		return err
	}
	p.keys = keys
	cfg := tree.Config{Store: p.store, Source: leaves(l), Lines: l.Len(), Keys: keys, Witnesses: s.config.Tree.Witnesses, Client: p.client, Log: s.log}
	if s.config.Tree.SecondPlace != "" {
		if cfg.Second, err = tree.ParsePlace(s.config.Tree.SecondPlace, p.client); err != nil {
			return fmt.Errorf("%s: %w", checkpointURL, err)
		}
	}
	p.Log, err = tree.Open(ctx, cfg)
	var file *fs.PathError
	var rename *os.LinkError
	switch {
	case errors.As(err, &file), errors.As(err, &rename): // the disk, not the log
		return fmt.Errorf("audit log %s: checkpoint or tiles beside it: %w", s.config.Path, err)
	case err != nil:
		return fmt.Errorf("audit log %s: %w; restore it from a backup. `auditor verify` reads all of it; docs/audit-format.md says how to accept a loss", s.config.Path, err)
	}
	// It ends in the Close of the log, so not with ctx.
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.wg.Go(func() { _ = p.Run(ctx) }) // Fault has its error
	p.wg.Go(func() {
		if err := p.Check(ctx); err != nil && ctx.Err() == nil && p.Fault() == nil {
			s.log.Error("audit log not compared with its tree", "err", err)
		}
	})
	return nil
}

// watchTree returns the fault of the tree: the log is not the one that was signed.
func (s *Service) watchTree(ctx context.Context) error {
	select {
	case <-s.proofs.Failed():
		return fmt.Errorf("audit log %s: %w", s.config.Path, s.proofs.Fault())
	case <-ctx.Done():
		return nil
	}
}

// leaves reads the lines again.
func leaves(l *ledger.Ledger) tree.Source {
	return func(ctx context.Context, after, upTo int64, yield func([32]byte) error) error {
		if after >= upTo {
			return nil
		}
		var failed error
		var buf []byte
		err := l.Lines(ctx, after, func(p ledger.Place, line []byte) bool {
			buf = append(append(buf[:0], line...), '\n')
			failed = yield(tree.Leaf(buf))
			return failed == nil && p.Seq < upTo
		})
		return errors.Join(err, failed)
	}
}

// Signed is the newest checkpoint.
func (p *proofs) Signed(context.Context) ([]byte, error) {
	signed, _ := p.Checkpoint()
	return signed, nil
}

// Covered is how many entries the newest checkpoint covers.
func (p *proofs) Covered(context.Context) (int64, error) {
	_, c := p.Checkpoint()
	return c.N, nil
}

// Store has the tiles.
func (p *proofs) VKeys() ([]string, error) { return vkeys(p.keys) }

func (p *proofs) Store() tree.Store { return p.store }

// Close signs the last checkpoint. Nothing is appended any more.
func (p *proofs) Close() error {
	p.stop()
	p.wg.Wait()
	p.client.CloseIdleConnections()
	return p.close()
}

// checkpoint answers the newest signed checkpoint.
func vkeys(keys func() (*tree.Keys, error)) ([]string, error) {
	k, err := keys()
	if err != nil {
		return nil, err
	}
	return k.VKeys, nil
}

// key names the verifier keys, one a line. Who gets a key from the log that it is to
// verify trusts the log with that: it serves to compare.
func (s *Service) key(w http.ResponseWriter, r *http.Request) {
	keys, err := s.proofs.VKeys()
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = io.WriteString(w, strings.Join(keys, "\n")+"\n") // the caller is gone
}

func (s *Service) checkpoint(w http.ResponseWriter, r *http.Request) {
	signed, err := s.proofs.Signed(r.Context())
	if errors.Is(err, fs.ErrNotExist) {
		notFound(w) // of a new log, for a moment
		return
	}
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(signed) // the caller is gone
}

// tile answers a tile or an entry bundle. They never change.
func (s *Service) tile(w http.ResponseWriter, r *http.Request) {
	t, err := tree.ParsePath("tile/" + r.PathValue("path"))
	if err != nil {
		notFound(w)
		return
	}
	data, err := tree.ReadTile(r.Context(), s.proofs.Store(), t)
	var damaged *tree.TileError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		notFound(w)
	case errors.As(err, &damaged):
		s.log.Error("tile of the audit log is damaged", "err", err)
		notFound(w)
	case err != nil:
		s.queryFailed(w, r, err)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		_, _ = w.Write(data) // the caller is gone
	}
}

// proof answers the C2SP tlog-proof of an entry. A new one waits for its checkpoint.
func (s *Service) proof(w http.ResponseWriter, r *http.Request) {
	seq, ok := number(r.PathValue("seq"), 0, 1, 1<<53)
	if !ok {
		notFound(w)
		return
	}
	if seq > s.ledger.Len() { // which may not have heard of another auditor's entry yet
		if _, err := s.place(r.Context(), seq); errors.Is(err, ledger.ErrNotFound) {
			notFound(w)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	p, err := s.proofs.Prove(ctx, seq)
	if errors.Is(err, context.DeadlineExceeded) {
		w.Header().Set("Retry-After", "5")
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusServiceUnavailable, Detail: "no checkpoint covers this entry yet"})
		return
	}
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write([]byte(p.String())) // the caller is gone
}
