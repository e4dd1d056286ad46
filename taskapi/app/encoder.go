package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/taskapi/internal/avro"
)

// openEncoder registers the schema of events whose data is published in Avro. A
// registry that refuses it ends the start, as nothing could be published. One that
// does not answer is waited for by the relay: changes are accepted meanwhile.
func (s *Service) openEncoder(ctx context.Context) (err error) {
	if !s.cfg.Avro {
		return nil
	}
	if s.registry, err = registry.New(s.cfg.Registry, "taskapi"); err != nil {
		return fmt.Errorf("open SCHEMA_REGISTRY_URL: %w", err)
	}
	if s.encoder, err = avro.New(s.registry, s.cfg.Kafka.Topic, s.log); err != nil {
		return err
	}
	err = s.encoder.Register(ctx)
	if refused := (*registry.RefusedError)(nil); errors.As(err, &refused) {
		return err
	}
	if err != nil {
		s.log.Warn("schema not registered yet, events wait in the outbox", "err", err)
	}
	return nil
}
