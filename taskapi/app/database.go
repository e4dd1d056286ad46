package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/volume"
	"github.com/taskwire/taskwire/taskapi/internal/avro"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// database is where tasks are: in a file of this process alone, or in a PostgreSQL
// that several replicas share.
type database interface {
	task.Store
	outbox.Source
	// Run commits changes until ctx ends, or returns the fault after which nothing
	// can be committed.
	Run(ctx context.Context) error
	// Lead calls do while the relay of this process is the one that publishes. do
	// returns when term ends, or when it is done after ctx has ended; then Lead returns.
	Lead(ctx context.Context, do func(term context.Context))
	// Check reports what a restart of this process could mend, Ready also the rest.
	Check() error
	Ready() error
	Close() error
}

// openDatabase returns an error that volume.Recoverable accepts when it is worth
// waiting for.
func (s *Service) openDatabase(ctx context.Context) (database, error) {
	if s.cfg.Postgres.URL == "" {
		f, err := store.Open(ctx, store.Config{
			Path: s.cfg.Database, Compact: s.cfg.Compact, OutboxLimit: s.cfg.OutboxLimit, Retention: s.cfg.OutboxRetention, Signer: s.signing(), DataSchema: s.dataSchema(),
		})
		switch {
		case s.cfg.WaitForLock && errors.Is(err, store.ErrLocked):
			return nil, &volume.Held{Err: err}
		case err != nil:
			return nil, err
		}
		if err := f.CannotShrink(); err != nil {
			s.log.Warn("space of deleted rows stays with the database file", "err", err)
		}
		return file{f}, nil
	}
	p, err := pgstore.Open(ctx, pgstore.Config{
		Database: s.cfg.Postgres, OutboxLimit: s.cfg.OutboxLimit, Retention: s.cfg.OutboxRetention, Signer: s.signing(), DataSchema: s.dataSchema(), Log: s.log,
	})
	switch {
	case err != nil && postgres.Unavailable(err) && ctx.Err() == nil:
		return nil, &volume.Down{Err: fmt.Errorf("DATABASE_URL: %w", err)}
	case err != nil:
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	return p, nil
}

// signing is the signer of the stores, nil without a key.
func (s *Service) signing() record.Signer {
	if s.signer == nil {
		return nil
	}
	return s.signer
}

// dataSchema is that of the events that the stores make.
func (s *Service) dataSchema() string {
	if s.encoder == nil {
		return ""
	}
	return avro.DataSchema
}

// file is a database whose lock makes this process the only one.
type file struct{ *store.Store }

// Ready is Check: nothing is asked of others.
func (f file) Ready() error { return f.Check() }

// Lead has the only relay.
func (f file) Lead(ctx context.Context, do func(term context.Context)) {
	do(context.WithoutCancel(ctx))
}
