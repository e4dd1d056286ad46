package registry

import (
	"context"

	"github.com/twmb/franz-go/pkg/sr"
)

// NewFetched returns schemas that fetch fetches.
func NewFetched(fetch func(ctx context.Context, id int) (sr.Schema, error)) *Schemas {
	return newSchemas(func(ctx context.Context, w writer) (sr.Schema, error) { return fetch(ctx, w.id) })
}

// Most is how many ids are remembered, and Settle how long one must be denied, or
// Restore with a fingerprint.
const (
	Most    = maxIDs
	Settle  = settle
	Restore = restore
)

// Len is how many ids are remembered.
func (s *Schemas) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}

// DataSchema is the address of a version, and ReadDataSchema what is read of one: the
// fingerprint, the subject and the version.
var DataSchema = dataSchema

func ReadDataSchema(address string) [3]string {
	w := writerOf(1, address)
	return [3]string{w.fingerprint, w.subject, w.version}
}
