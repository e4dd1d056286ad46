// Package app assembles the bridge. It is the only package of this service that
// others may import.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/console"
	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/token"
)

// Service is the bridge.
//
//	Kafka ── transport ── client ─┬─ control ─ gate per subscription
//	                              ├─ subscription ─ member, loop per partition ── sink
//	                              ├─ subscription ...
//	                              └─ producer (dead letters)
type Service struct {
	http      *httpd.Server
	transport *kafka.Transport
	control   *control.Control
	registry  *registry.Client  // nil: data in Avro cannot be read
	schemas   *registry.Schemas // likewise
	reload    *reload
	jobs      *redrive.Jobs
	console   *console.Console // nil when it is off
}

// New binds the ports; it connects to nothing and delivers nothing yet. Run waits
// for unavailable brokers, and the service is not ready until then.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Service, error) {
	transport, err := kafka.NewTransport(cfg.Kafka)
	if err != nil {
		return nil, err
	}
	server, err := httpd.Listen(ctx, cfg.HTTP, log)
	if err != nil {
		return nil, err
	}
	s := &Service{http: server, transport: transport}
	client := kafka.NewClient(cfg.Kafka, transport)
	letters := kafka.NewProducer(client, log)
	s.control = control.New(client, letters, cfg.Kafka.CreateTopics, log)
	if cfg.Registry.URL != "" {
		if s.registry, err = registry.New(cfg.Registry, "bridge"); err != nil {
			return nil, errors.Join(fmt.Errorf("open SCHEMA_REGISTRY_URL: %w", err), server.Close())
		}
		s.schemas = registry.NewSchemas(s.registry, log)
	}
	metrics := pump.NewMetrics(server.Registry())
	budget := pump.NewBudget(cfg.MemoryBudget)
	var keys func() seal.Keys
	if cfg.StateKeyFile != "" {
		get, check, err := stateKeys(cfg.StateKeyFile, log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("BRIDGE_STATE_KEY_FILE: %w", err), server.Close())
		}
		keys = get
		server.Ready(httpd.Check{Name: "BRIDGE_STATE_KEY_FILE", Func: check})
	}
	var steps *journal.Journal // what only the console shows is not kept without it
	var fault *pump.Fault
	if !cfg.Console.Off {
		steps = journal.New()
	}
	if cfg.Console.Breakable {
		fault = &pump.Fault{}
	}
	fleet := &fleet{forget: func(name string) { metrics.Forget(name); steps.Forget(name) }, build: func(c Subscription) (*pump.Subscription, error) {
		settings, err := cfg.pump(c, log)
		if err != nil {
			return nil, err
		}
		settings.Keys, settings.Gate, settings.Tracer = keys, s.control.Gate(c.Name), server.Tracer()
		settings.Journal, settings.Fault, settings.Schemas = steps, fault, s.schemas
		return pump.New(settings, client, letters, budget, metrics, log)
	}}
	if _, err := fleet.apply(cfg.Subscriptions); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	server.ReadyEach(fleet.checks)
	s.reload = newReload(cfg, fleet, server.Registry(), log)
	route := func(r *http.Request) string { return r.Pattern }
	door := admin.Config{File: s.reload.State, Hosts: cfg.AdminHosts, Loopback: httpd.IsLoopback(server.Addr()), HidePayloads: cfg.Console.HidePayloads}
	if cfg.AdminTokenFile == "" {
		log.Info("admin API can be read by everyone who can reach it; set ADMIN_TOKEN_FILE to require a token", "writes_from_loopback", door.Loopback)
	} else {
		if door.Token, err = token.OpenFor(operator, cfg.AdminTokenFile, log); err != nil {
			_ = server.Close()
			return nil, fmt.Errorf("ADMIN_TOKEN_FILE: %w", err)
		}
		door.Refusals = token.NewRefusals(server.Registry(), log)
		server.Ready(httpd.Check{Name: "ADMIN_TOKEN_FILE", Func: door.Token.Err})
	}
	server.PublicHosts(door.Hosts)
	s.jobs = redrive.New(fleet.subscriptions, log)
	s.jobs.Ended = func() { steps.Add(journal.Step{At: time.Now(), Kind: journal.Changed}) }
	door.Jobs, door.Letters = s.jobs, admin.NewReader()
	api := admin.Handler(fleet.subscriptions, door)
	if s.console = s.newConsole(cfg, fleet, door, steps, fault); s.console != nil {
		api = s.console.Handler(api)
	}
	handler := callbacks(fleet.subscriptions, api)
	server.Handle(httpd.Instrument(server.Registry(), server.Tracer(), "bridge", route)(handler))
	return s, nil
}

// Addr returns the admin API's address with its real port.
func (s *Service) Addr() net.Addr { return s.http.Addr() }

// OpsAddr returns the operator address with its real port.
func (s *Service) OpsAddr() net.Addr { return s.http.OpsAddr() }

// Registry has the service's metrics.
func (s *Service) Registry() *prometheus.Registry { return s.http.Registry() }

// Close releases what New acquired, for a service that never ran.
func (s *Service) Close() error { return s.http.Close() }

// Reload has the configuration file read again, soon.
func (s *Service) Reload() {
	select {
	case s.reload.ask <- struct{}{}:
	default: // it will be already
	}
}

// Run delivers until ctx ends; then posts in flight finish, finished offsets are
// committed, and the members leave their groups. If one part fails, the others
// stop too.
func (s *Service) Run(ctx context.Context) error {
	defer s.http.CloseTracer()
	defer s.transport.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.http.Serve(ctx) })
	if s.console != nil { // its streams would hold up the drain of the server
		group.Go(func() error { <-ctx.Done(); s.console.Close(); return nil })
	}
	group.Go(func() error { return s.jobs.Run(ctx) })
	if s.schemas != nil {
		defer s.registry.Close()
		group.Go(func() error { s.schemas.Run(ctx); return nil })
	}
	group.Go(func() error { s.control.Run(ctx); return nil })
	group.Go(func() error { s.reload.run(ctx, group); return nil })
	return group.Wait()
}
