package pgstore

import "context"

// Shape sets how many transactions run at a time and how many changes each takes.
func Shape(cfg Config, writers, batch int) Config {
	cfg.writers, cfg.batch = writers, batch
	return cfg
}

// Purge purges once.
func Purge(ctx context.Context, s *Store) error {
	_, err := s.purge(ctx)
	return err
}
