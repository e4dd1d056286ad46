package registry

import (
	"context"

	"github.com/twmb/franz-go/pkg/sr"
)

// NewFetched returns schemas that fetch fetches.
func NewFetched(fetch func(ctx context.Context, id int) (sr.Schema, error)) *Schemas {
	return newSchemas(fetch)
}

// Most is how many ids are remembered, and Settle how long one must be denied.
const (
	Most   = maxIDs
	Settle = settle
)

// Len is how many ids are remembered.
func (s *Schemas) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}
