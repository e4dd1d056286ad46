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

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
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
	subs      []*pump.Subscription
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
	for _, c := range cfg.Subscriptions {
		settings, err := cfg.pump(c, log)
		if err != nil {
			return nil, errors.Join(err, server.Close())
		}
		settings.Keys, settings.Gate = keys, s.control.Gate(c.Name)
		sub, err := pump.New(settings, client, letters, budget, metrics, log)
		if err != nil {
			return nil, errors.Join(err, server.Close())
		}
		s.subs = append(s.subs, sub)
		server.Ready(httpd.Check{Name: "subscription " + c.Name, Func: sub.Ready})
	}
	route := func(r *http.Request) string { return r.Pattern }
	door := admin.Config{Hosts: cfg.AdminHosts, Loopback: httpd.IsLoopback(server.Addr())}
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
	handler := admin.Handler(s.subs, door)
	server.Handle(httpd.Instrument(server.Registry(), "bridge", route)(handler))
	return s, nil
}

// Addr returns the admin API's address with its real port.
func (s *Service) Addr() net.Addr { return s.http.Addr() }

// OpsAddr returns the operator address with its real port.
func (s *Service) OpsAddr() net.Addr { return s.http.OpsAddr() }

// Close releases what New acquired, for a service that never ran.
func (s *Service) Close() error { return s.http.Close() }

// Run delivers until ctx ends; then posts in flight finish, finished offsets are
// committed, and the members leave their groups. If one part fails, the others
// stop too.
func (s *Service) Run(ctx context.Context) error {
	defer s.transport.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.http.Serve(ctx) })
	group.Go(func() error { s.control.Run(ctx); return nil })
	for _, sub := range s.subs {
		group.Go(func() error { return sub.Run(ctx) })
	}
	return group.Wait()
}
