// Package app assembles the Task API. It is the only package of this service
// that others may import.
//
//	            1 store ── SQLite: writer goroutine, read pool, lock on the file, or
//	           /       \   PostgreSQL: writers, pools, a session with the relay's lock
//	HTTP ── 3 rest      2 relay ── 4 producer ── Kafka
//
// A stop runs against the flow of a change: readiness off and HTTP drained,
// then the outbox flushed, then the store closed. All steps share one grace
// period.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/volume"
	"github.com/taskwire/taskwire/taskapi/internal/avro"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/rest"
	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Service is a Task API that is ready to run.
type Service struct {
	cfg       Config
	log       *slog.Logger
	server    *httpd.Server
	tokens    *token.List       // nil: the API is open
	signer    *eventsign.Signer // nil: events are not signed
	missing   error             // why there is no store yet
	registry  *registry.Client
	encoder   *avro.Encoder // nil: the data of events is published as JSON
	store     database
	relay     *outbox.Relay
	transport *kafka.Transport
}

// CacheBytes is what a service holds outside of Go's heap at most.
const CacheBytes = store.CacheBytes

// New binds the ports, opens the store and reads the secrets; it starts
// nothing. Kafka may be down: the relay waits for it. An unavailable volume is
// no error either: Run waits for it.
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Service, err error) {
	s := &Service{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if cfg.TokensFile != "" {
		if s.tokens, err = token.Open(cfg.TokensFile, log); err != nil {
			return nil, fmt.Errorf("read API_TOKENS_FILE: %w", err)
		}
	}
	if cfg.SigningKeyFile != "" {
		if s.signer, err = eventsign.OpenSigner(cfg.SigningKeyFile, log); err != nil {
			return nil, fmt.Errorf("read EVENT_SIGNING_KEY_FILE: %w", err)
		}
	}
	if err = s.openEncoder(ctx); err != nil {
		return nil, err
	}
	if s.transport, err = kafka.NewTransport(cfg.Kafka); err != nil {
		return nil, err
	}
	if s.server, err = httpd.Listen(ctx, cfg.HTTP, log); err != nil {
		return nil, err
	}
	if cfg.Postgres.URL == "" {
		s.server.Registry().MustRegister(volume.Space(filepath.Dir(cfg.Database)))
	}
	if s.encoder != nil {
		s.server.Registry().MustRegister(s.encoder.Lost)
	}
	s.missing = s.load(ctx)
	if s.missing != nil && !volume.Recoverable(s.missing) {
		return nil, s.missing
	}
	s.server.SetUnavailable(s.missing) // already now: the first answer of Run has to be right
	if s.tokens != nil {
		s.server.Ready(httpd.Check{Name: "API_TOKENS_FILE", Func: s.tokens.Err})
	}
	if s.signer != nil {
		s.server.Ready(httpd.Check{Name: "EVENT_SIGNING_KEY_FILE", Func: s.signer.Err})
	}
	if s.tokens == nil {
		log.Info("API open to everyone who can reach it; set API_TOKENS_FILE to require tokens")
	}
	return s, nil
}

// load opens the store and serves the API from it.
func (s *Service) load(ctx context.Context) error {
	tasks, err := s.openDatabase(ctx)
	if err != nil {
		return fmt.Errorf("task store: %w", err)
	}
	api := rest.New(rest.Config{Store: tasks, Tokens: s.tokens, Log: s.log, Registry: s.server.Registry(), Tracer: s.server.Tracer()})
	s.store = tasks
	s.relay = s.newRelay()
	s.server.Handle(failpoint.Answers("A5", "A6", api))
	// Readiness does not depend on Kafka: without it events wait in the outbox.
	s.server.Live(httpd.Check{Name: "store", Func: tasks.Check})
	s.server.Ready(httpd.Check{Name: "store", Func: tasks.Ready})
	return nil
}

func (s *Service) newRelay() *outbox.Relay {
	client := kafka.NewClient(s.cfg.Kafka, s.transport)
	var encoder outbox.Encoder
	if s.encoder != nil {
		encoder = s.encoder
	}
	return outbox.New(outbox.Config{
		Topic: s.cfg.Kafka.Topic,
		Mode:  s.cfg.EventMode, Encoder: encoder,
		Prepare: func(ctx context.Context) error {
			if s.encoder != nil {
				if err := s.encoder.Register(ctx); err != nil {
					return err
				}
			}
			return kafka.EnsureTopic(ctx, client, s.cfg.Kafka.Topic, s.cfg.Kafka.Partitions, s.cfg.Kafka.CreateTopics)
		},
		Log:      s.log,
		Registry: s.server.Registry(),
		Tracer:   s.server.Tracer(),
	}, s.store, publisher{kafka.NewProducer(client, s.log)})
}

// publisher is the producer as the relay sees it.
type publisher struct{ producer *kafka.Producer }

func (p publisher) Partitions(ctx context.Context, topic string) (int, error) {
	return p.producer.Partitions(ctx, topic)
}

func (p publisher) Partition(key string, n int) int { return kafka.PartitionOf([]byte(key), n) }

func (p publisher) Produce(ctx context.Context, topic string, recs []event.Record) error {
	err := p.producer.Produce(ctx, topic, recs)
	var partial *kafka.ProduceError
	if errors.As(err, &partial) {
		return &outbox.PartialError{Acked: partial.Acked, Err: err}
	}
	return err
}

// Addr is the public address.
func (s *Service) Addr() net.Addr { return s.server.Addr() }

// OpsAddr is the operator address.
func (s *Service) OpsAddr() net.Addr { return s.server.OpsAddr() }

// Registry has the service's metrics.
func (s *Service) Registry() *prometheus.Registry { return s.server.Registry() }

// Run serves until ctx ends or the store has a fault, then drains in the
// order that loses nothing. It returns nil after a clean stop.
func (s *Service) Run(ctx context.Context) error {
	defer s.server.CloseTracer()
	// Each part outlives those that send to it, so each has a context of its own.
	detached := context.WithoutCancel(ctx)
	relaying, stopRelay := context.WithCancel(detached)
	defer stopRelay()
	writing, stopStore := context.WithCancel(detached)
	defer stopStore()
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	var stop time.Time // when the drain began; read after Serve has returned
	began := make(chan struct{})
	context.AfterFunc(serving, func() { stop = time.Now(); close(began) })

	served := make(chan error, 1)
	go func() {
		defer stopServing() // a fault of a listener ends everything
		served <- s.server.Serve(serving)
	}()
	err := volume.Retry(serving, s.log, s.missing, s.server.SetUnavailable, s.load)
	if s.store == nil {
		stopServing() // stopped while waiting, or waiting does not help
		return errors.Join(err, <-served)
	}

	var background errgroup.Group
	background.Go(func() error {
		defer stopServing() // without its writer the service can only end
		return s.store.Run(writing)
	})
	if s.encoder != nil {
		background.Go(func() error { s.encoder.Run(relaying); return nil })
	}
	relayed := make(chan error, 1)
	go func() {
		var flushed error
		s.store.Lead(relaying, func(term context.Context) {
			flushed = s.publish(term, relaying, func() time.Time { return stop.Add(s.cfg.HTTP.Grace) })
		})
		relayed <- flushed
	}()

	err = <-served
	<-began
	stopRelay()
	flushed := <-relayed
	stopStore()
	return errors.Join(background.Wait(), err, flushed, s.closeStore())
}

// publish is one turn of the relay. Only what ends with relaying has to be flushed:
// after a term that was lost, another relay publishes.
func (s *Service) publish(term, relaying context.Context, until func() time.Time) error {
	run, end := context.WithCancel(term)
	defer end()
	defer context.AfterFunc(relaying, end)()
	s.relay.Run(run)
	if term.Err() != nil {
		return nil
	}
	return s.flush(term, until())
}

// flush gives the outbox what is left of the grace period, and at least a second.
func (s *Service) flush(ctx context.Context, until time.Time) error {
	if s.store.Ready() != nil {
		return nil // the writer reports a fault; the waiting events are on disk
	}
	if soon := time.Now().Add(time.Second); until.Before(soon) {
		until = soon
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	err := s.relay.Flush(ctx)
	if err != nil && s.cfg.Postgres.URL != "" && errors.Is(err, task.ErrUnavailable) {
		s.log.Warn("outbox not flushed, its events will be published by another replica or after the next start", "err", err)
		return nil // a database that goes down is no fault of this process
	}
	return err
}

func (s *Service) closeStore() error {
	s.transport.Close()
	if s.registry != nil {
		s.registry.Close()
	}
	return s.store.Close()
}

// Close releases what New acquired, for a service that never ran.
func (s *Service) Close() error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.transport != nil {
		s.transport.Close()
	}
	if s.registry != nil {
		s.registry.Close()
	}
	return errors.Join(errs...)
}
