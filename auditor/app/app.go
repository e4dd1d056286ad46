// Package app assembles the auditor. It is the only package of this service
// that others may import.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/volume"
)

// Service is the auditor.
//
//	POST /   -> sink -> receive -> ledger.Append -> one write, one fsync -> answer
//	GET ...  -> query ------------> ledger.Find
type Service struct {
	http       *httpd.Server
	guard      *sink.Guard
	config     Config
	wrap       func(ledger.File) ledger.File // see open
	ledger     store                         // nil while it cannot be opened
	proofs     prover                        // of the ledger
	missing    error                         // why New could not open the log, nil when it did
	loading    *loading                      // when New did not wait for it
	log        *slog.Logger
	metrics    metrics
	scans      chan struct{}  // limits the queries that read the log at a time
	answers    *httpd.Answers // limits the queries that are being answered
	readers    *readers
	signatures *signatures    // nil: events need none
	tails      httpd.Streams  // the clients that follow the log
	fullLog    rate.Sometimes // one log line for many posts to a full disk
}

// New binds the ports, locks the log and reads all of it; it serves nothing yet.
// A volume that cannot be used yet is not an error: Run waits for it.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Service, error) {
	return open(ctx, cfg, log, pointed)
}

// open is New with a layer over the log's file, for tests with failing disks.
func open(ctx context.Context, cfg Config, log *slog.Logger, wrap func(ledger.File) ledger.File) (*Service, error) {
	server, err := httpd.Listen(ctx, cfg.HTTP, log)
	if err != nil {
		return nil, err
	}
	guard, err := sink.NewGuard(cfg.Sink, server, log)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	s := &Service{http: server, guard: guard, config: cfg, wrap: wrap, log: log, scans: make(chan struct{}, maxScans), answers: httpd.NewAnswers(maxAnswers), fullLog: rate.Sometimes{Interval: 10 * time.Second}}
	if s.readers, err = newReaders(cfg.ReadTokensFile, server, guard, log); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	if s.signatures, err = newSignatures(cfg.VerifyKeysFile, server, log); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	s.metrics = newMetrics(server.Registry())
	if cfg.DatabaseURL == "" {
		server.Registry().MustRegister(volume.Space(filepath.Dir(cfg.Path)))
	}
	s.missing = s.begin(ctx)
	if s.missing != nil && !volume.Recoverable(s.missing) {
		return nil, errors.Join(s.missing, server.Close())
	}
	server.SetUnavailable(s.unavailable()) // before Run serves its first answer
	guard.Announce()
	return s, nil
}

// load opens the log, and sets the handler and the checks that need it.
func (s *Service) load(ctx context.Context) error {
	l, proofs, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	s.ledger, s.proofs = l, proofs
	s.metrics.register(s.http.Registry(), l, proofs)
	s.http.Handle(httpd.Instrument(s.http.Registry(), s.http.Tracer(), "auditor", route)(failpoint.Answers("U5", "U6", s.routes())))
	s.http.Live(httpd.Check{Name: "ledger", Func: l.Fault}, httpd.Check{Name: "tree", Func: proofs.Fault})
	s.http.Ready(httpd.Check{Name: "ledger", Func: l.Fault}, httpd.Check{Name: "disk", Func: l.Room})
	return nil
}

// openStore opens the log where it is, and its tree.
func (s *Service) openStore(ctx context.Context) (store, prover, error) {
	if s.config.DatabaseURL != "" {
		return s.openDatabase(ctx)
	}
	return s.openFile(ctx)
}

func (s *Service) openFile(ctx context.Context) (store, prover, error) {
	var p *proofs // set before the first append
	l, err := ledger.Open(ctx, ledger.Config{
		Path: s.config.Path, SegmentBytes: s.config.SegmentBytes, Wrap: s.wrap, OnRoll: func() { failpoint.Hit("U8") }, OnSync: s.metrics.synced, OnIndex: s.indexing(), OnCheck: s.checking(),
		OnMark: func(err error) {
			s.log.Warn("not done beside the audit log", "err", err)
		},
		OnLines: func(first int64, leaves [][32]byte) error {
			p.Append(first, leaves)
			return nil
		},
		OnClose: func() error {
			if p == nil {
				return nil
			}
			return p.Close()
		},
	})
	switch {
	case s.config.WaitForLock && errors.Is(err, ledger.ErrLocked):
		return nil, nil, &volume.Held{Err: err}
	case err != nil:
		return nil, nil, err
	}
	if p, err = s.openTree(ctx, l); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	s.http.Registry().MustRegister(uncheckedBytes(l))
	s.logRecovery(l)
	return l, p, nil
}

func (s *Service) logRecovery(l *ledger.Ledger) {
	path, r := s.config.Path, l.Recovered()
	if t := r.Torn; t != nil {
		s.log.Warn("unfinished last write moved out of the audit log", "path", path, "byte", t.Offset, "bytes", t.Bytes, "kept", t.Kept, "reason", t.Reason)
	}
	if r.Rebuilt != "" {
		s.log.Warn("index of the audit log made anew", "path", path, "entries", r.Replayed, "reason", r.Rebuilt)
	}
	// The number is part of the message by contract.
	s.log.Info(fmt.Sprintf("Loaded %d previously seen events", r.Entries), "path", path, "version_gaps", r.VersionGaps)
}

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", openAPI)
	mux.Handle("GET /entries", s.readers.only(s.entries))
	mux.Handle("GET /entries/tail", s.readers.only(s.tail))
	mux.Handle("GET /entries/{seq}", s.readers.only(s.entry))
	mux.Handle("GET /tasks/{id}/history", s.readers.only(s.history))
	mux.HandleFunc("GET /checkpoint", s.checkpoint) // hashes only, so for everybody
	mux.HandleFunc("GET /tile/{path...}", s.tile)
	mux.HandleFunc("GET /key", s.key)
	mux.HandleFunc("GET /proof/{seq}", s.proof)
	mux.Handle("/", s.guard.Wrap(sink.Handler(s.receive)))
	return mux
}

// route is the pattern that matched, without its method.
func route(r *http.Request) string {
	_, path, ok := strings.Cut(r.Pattern, " ")
	if !ok {
		path = r.Pattern
	}
	return strings.TrimSuffix(path, "{$}")
}

// Addr is the public address with its real port.
func (s *Service) Addr() net.Addr { return s.http.Addr() }

// OpsAddr is the operator address with its real port.
func (s *Service) OpsAddr() net.Addr { return s.http.OpsAddr() }

// Registry has the service's metrics.
func (s *Service) Registry() *prometheus.Registry { return s.http.Registry() }

// Run serves until ctx ends or the log fails, drains, and closes the log. It
// returns the log's fault even when that came during the drain.
func (s *Service) Run(ctx context.Context) error {
	defer s.http.CloseTracer()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.http.Serve(ctx) })
	group.Go(func() error {
		if err := s.finish(ctx); err != nil || s.ledger == nil {
			return err
		}
		group.Go(func() error { return s.watchTree(ctx) })
		return s.ledger.Run(ctx)
	})
	group.Go(func() error {
		<-ctx.Done()
		s.tails.Stop()
		return nil
	})
	err := group.Wait()
	if s.ledger == nil {
		return err // stopped while it waited for the volume
	}
	if err == nil {
		err = s.ledger.Fault()
	}
	return errors.Join(err, s.closeStore())
}

// Close releases the ports and the log of a service that never ran.
func (s *Service) Close() error {
	s.giveUp()
	err := s.http.Close()
	if s.ledger != nil {
		err = errors.Join(err, s.closeStore())
	}
	return err
}

// closeStore closes the log and its tree. The tree beside a file ends in the log's
// Close: after the last line, and before the lock goes to the next auditor, which
// writes the same tree.
func (s *Service) closeStore() error {
	if s.config.DatabaseURL != "" {
		return errors.Join(s.proofs.Close(), s.ledger.Close())
	}
	return s.ledger.Close()
}

func (s *Service) openDatabase(ctx context.Context) (store, prover, error) {
	l, err := pgledger.Open(ctx, pgledger.Config{Database: database(s.config.DatabaseURL), OnSync: s.metrics.synced})
	if postgres.Unavailable(err) {
		return nil, nil, &volume.Down{Err: fmt.Errorf("%s: %w", databaseKey, err)}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", databaseKey, err)
	}
	p, err := s.openPublished(ctx, l)
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	s.log.Info(fmt.Sprintf("Loaded %d previously seen events", l.Len()), "store", "postgres", "version_gaps", l.VersionGaps())
	return l, p, nil
}
