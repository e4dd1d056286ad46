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
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
)

// Service is the auditor.
//
//	POST /   -> sink -> receive -> ledger.Append -> one write, one fsync -> answer
//	GET ...  -> query ------------> ledger.Find
type Service struct {
	http    *httpd.Server
	ledger  *ledger.Ledger
	log     *slog.Logger
	metrics metrics
	scans   chan struct{} // one place for each query that may read the log at a time
	fullLog quiet
}

// New binds the ports, locks the log and reads it whole; it serves nothing yet.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Service, error) {
	return open(ctx, cfg, log, pointed)
}

// open is New with a layer over the log's file, for tests with failing disks.
func open(ctx context.Context, cfg Config, log *slog.Logger, wrap func(ledger.File) ledger.File) (*Service, error) {
	server, err := httpd.Listen(ctx, cfg.HTTP, log)
	if err != nil {
		return nil, err
	}
	s := &Service{http: server, log: log, scans: make(chan struct{}, 2), fullLog: quiet{every: 10 * time.Second}}
	s.metrics = newMetrics()
	s.ledger, err = ledger.Open(ctx, ledger.Config{Path: cfg.Path, OnSync: s.metrics.synced, Wrap: wrap})
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	s.metrics.register(server.Registry(), s.ledger)
	s.tellRecovery(cfg.Path)
	server.Handle(httpd.Instrument(server.Registry(), "auditor", route)(failpoint.Answers("U5", "U6", s.routes())))
	server.Live(httpd.Check{Name: "ledger", Func: s.ledger.Fault})
	server.Ready(httpd.Check{Name: "ledger", Func: s.ledger.Fault}, httpd.Check{Name: "disk", Func: s.ledger.Room})
	return s, nil
}

func (s *Service) tellRecovery(path string) {
	r := s.ledger.Recovered()
	if t := r.Torn; t != nil {
		s.log.Warn(fmt.Sprintf("The last write to %s was not finished: %d bytes from byte %d on moved to %s", path, t.Bytes, t.Offset, t.Kept), "reason", t.Reason)
	}
	s.log.Info(fmt.Sprintf("Loaded %d previously seen events", r.Entries), "path", path, "version_gaps", r.Steps)
	s.log.Info("posts are not authenticated: anyone who can reach the port can append")
}

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /entries", s.entries)
	mux.HandleFunc("GET /entries/{seq}", s.entry)
	mux.HandleFunc("GET /tasks/{id}/history", s.history)
	mux.Handle("/", sink.Handler(s.receive))
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

// Run serves until ctx ends or the log fails, drains, and lets go of the log.
// A fault is returned also when it came during the drain.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.http.Serve(ctx) })
	group.Go(func() error {
		select {
		case <-s.ledger.Failed():
			return s.ledger.Fault()
		case <-ctx.Done():
			return nil
		}
	})
	err := group.Wait()
	if err == nil {
		err = s.ledger.Fault()
	}
	return errors.Join(err, s.ledger.Close())
}

// Close releases what a service that never ran has acquired.
func (s *Service) Close() error { return errors.Join(s.http.Close(), s.ledger.Close()) }
