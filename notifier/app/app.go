// Package app assembles the notifier. It is the only package of this service
// that others may import.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
)

// Config holds the settings of the notifier.
type Config struct {
	HTTP httpd.Config
	Sink sink.Config
}

// FromEnv reads the settings; its error names every mistake.
func FromEnv(lookup env.Lookup) (Config, error) {
	r := env.NewReader(lookup)
	cfg := Config{HTTP: httpd.ConfigFromEnv(r, "notifier", 8002), Sink: sink.ConfigFromEnv(r)}
	return cfg, r.Err()
}

// Service is the notifier.
type Service struct {
	http   *httpd.Server
	log    *slog.Logger
	logged *prometheus.CounterVec // taskwire_notifications_total{type}
}

// New binds the ports and serves nothing yet.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Service, error) {
	server, err := httpd.Listen(ctx, cfg.HTTP, log)
	if err != nil {
		return nil, err
	}
	guard, err := sink.NewGuard(cfg.Sink, server, log)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	s := &Service{http: server, log: log, logged: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "taskwire_notifications_total", Help: "Notifications logged, by event type.",
	}, []string{"type"})}
	for _, t := range []string{event.TypeCreated, event.TypeCompleted} {
		s.logged.WithLabelValues(t) // exists from the start, so that a rate over it has a first value
	}
	server.Registry().MustRegister(s.logged)
	route := func(*http.Request) string { return "/" }
	server.Handle(httpd.Instrument(server.Registry(), server.Tracer(), "notifier", route)(guard.Wrap(sink.Handler(s.receive))))
	guard.Announce()
	return s, nil
}

// Addr is the public address with its real port.
func (s *Service) Addr() net.Addr { return s.http.Addr() }

// OpsAddr is the operator address with its real port.
func (s *Service) OpsAddr() net.Addr { return s.http.OpsAddr() }

// Registry has the service's metrics.
func (s *Service) Registry() *prometheus.Registry { return s.http.Registry() }

// Run serves until ctx ends and drains.
func (s *Service) Run(ctx context.Context) error {
	defer s.http.CloseTracer()
	return s.http.Serve(ctx)
}

// Close releases the ports of a service that never ran.
func (s *Service) Close() error { return s.http.Close() }

func (s *Service) receive(ctx context.Context, events []event.Event) []sink.Result {
	results := make([]sink.Result, len(events))
	for i, e := range events {
		results[i] = s.notify(ctx, e)
	}
	return results
}

// notify logs a created or completed task. An event of these types without a task
// in it is refused, because sending it again would not help.
func (s *Service) notify(ctx context.Context, e event.Event) sink.Result {
	var what string
	switch e.Type() {
	case event.TypeCreated:
		what = "New task created"
	case event.TypeCompleted:
		what = "Task completed"
	default:
		if s.log.Enabled(ctx, slog.LevelDebug) {
			s.log.Debug("event ignored", trail(e)...)
		}
		return sink.Result{Status: http.StatusNoContent}
	}
	task, err := event.Task(e)
	if err != nil {
		s.log.Warn("event refused: its data is not a task", append(trail(e), "err", err)...)
		return sink.Refuse("Not a task event", err)
	}
	s.log.Info("NOTIFICATION: "+what+" - '"+task.Title+"' (ID: "+task.TaskID+")",
		append(trail(e), "task_id", task.TaskID)...)
	s.logged.WithLabelValues(e.Type()).Inc()
	return sink.Result{Status: http.StatusNoContent}
}

func trail(e event.Event) []any {
	correlation, _ := event.Attribute(e, event.CorrelationID)
	parent, _ := event.Attribute(e, event.TraceParent)
	return sink.Trail(e.ID(), e.Type(), correlation, parent)
}
