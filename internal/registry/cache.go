package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/taskwire/taskwire/internal/retry"
)

const (
	askers = 4 // requests at once
	// askRate bounds requests a second, whatever ids stand in a topic.
	askRate = 20
	// maxIDs bounds what is remembered, and maxText the schemas among it, by text.
	maxIDs  = 1024
	maxText = 4 << 20
	settle  = 10 * time.Second
	restore = time.Minute
	// finalFor is how long it is believed that nothing will come of an id. After that
	// somebody may have put the schema there, or mended what answered for the registry.
	finalFor = time.Minute
)

// PendingError says that the schema of an id is not known yet.
type PendingError struct {
	ID  int
	Err error // what went wrong with the last request; nil: none has failed
}

func (e *PendingError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("schema %d is being fetched", e.ID)
	}
	return fmt.Sprintf("schema %d is not known: %v", e.ID, e.Err)
}
func (e *PendingError) Unwrap() error { return e.Err }

// Schemas knows schemas by id. Get never waits: what it does not know is fetched by
// the goroutines of Run, and Changed tells when something has become known. It is
// safe for concurrent use.
type Schemas struct {
	// Settle is how long the registry must deny an id before it is believed: a replica
	// may lag behind the one at which a producer has registered. 10 s; set it before Run.
	Settle time.Duration
	// Restore is the same for a schema whose fingerprint is named: there was one, so the
	// registry has lost it, and its producer, which may have to start, registers it again.
	// Not longer, as whoever can write to the topic can name anything. 1 min.
	Restore time.Duration

	fetch func(ctx context.Context, w writer) (sr.Schema, error)
	log   *slog.Logger
	warn  rate.Sometimes
	limit *rate.Limiter
	asked chan writer

	mu      sync.Mutex
	known   map[writer]*known
	text    int       // bytes of the schemas in known
	full    time.Time // when no room was found; it is looked for once a second
	clock   int64
	changed chan struct{} // closed at the next change
}

// known is what is known of a writer's schema. Without a schema and a final error it is
// pending.
type known struct {
	schema  *Schema
	final   error
	until   time.Time // of final
	pending error     // of the last request
	asking  bool
	denied  time.Time // since when the registry denies it
	again   time.Time // not asked before
	backoff retry.Backoff
	used    int64
	seen    time.Time // last asked for by Get
}

// NewSchemas returns schemas that c fetches.
func NewSchemas(c *Client, log *slog.Logger) *Schemas {
	s := newSchemas(c.fetch)
	s.log = log
	return s
}

func newSchemas(fetch func(context.Context, writer) (sr.Schema, error)) *Schemas {
	return &Schemas{
		Settle: settle, Restore: restore,
		fetch: fetch, log: slog.New(slog.DiscardHandler), warn: rate.Sometimes{Interval: 10 * time.Second},
		limit: rate.NewLimiter(askRate, askRate), asked: make(chan writer, maxIDs/8),
		known: map[writer]*known{}, changed: make(chan struct{}),
	}
}

// Get returns the schema of id. dataSchema is that of the event, "" for none; if it
// names a fingerprint, no schema with another is returned. A *PendingError says that
// the schema is not known yet, and it is fetched if it is time for that; an
// *UnknownError, *OtherError or *UnusableError says that nothing will come of waiting.
func (s *Schemas) Get(id int, dataSchema string) (*Schema, error) {
	w := writerOf(id, dataSchema)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	k := s.known[w]
	if k == nil {
		if !s.makeRoom() {
			return nil, &PendingError{ID: id}
		}
		k = &known{backoff: retry.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}}
		s.known[w.clone()] = k
	}
	now := time.Now()
	k.used, k.seen = s.clock, now
	switch {
	case k.schema != nil:
		return k.schema, nil
	case k.final != nil && now.Before(k.until):
		return nil, k.final
	case k.final != nil:
		k.final, k.denied = nil, time.Time{}
	}
	if !k.asking && !now.Before(k.again) {
		select {
		case s.asked <- w.clone():
			k.asking = true
		default: // asked for at the next call
		}
	}
	return nil, &PendingError{id, k.pending}
}

// Changed is closed when something becomes known after the call.
func (s *Schemas) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// makeRoom forgets the half that was not used for the longest time, but for what is
// being fetched or denied: a half at once, so that a flood of ids does not pay for each
// of them. An id that was forgotten while it is denied would be denied from the start
// again, and of more ids than fit none would ever be unknown; unless nobody asks for it
// any more, who would do so every second. False: there is no room.
func (s *Schemas) makeRoom() bool {
	if len(s.known) < maxIDs && s.text <= maxText {
		return true
	}
	now := time.Now()
	if now.Sub(s.full) < time.Second {
		return false
	}
	ids := slices.Collect(maps.Keys(s.known))
	slices.SortFunc(ids, func(a, b writer) int { return cmp.Compare(s.known[a].used, s.known[b].used) })
	for _, id := range ids[:len(ids)/2] {
		k := s.known[id]
		if k.asking || k.final == nil && !k.denied.IsZero() && now.Sub(k.seen) < s.Settle {
			continue
		}
		if k.schema != nil {
			s.text -= k.schema.size
		}
		delete(s.known, id)
	}
	if len(s.known) < maxIDs && s.text <= maxText {
		return true
	}
	s.full = now
	return false
}

// Run fetches until ctx ends.
func (s *Schemas) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range askers {
		all.Go(func() { s.ask(ctx) })
	}
	all.Wait()
}

func (s *Schemas) ask(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-s.asked:
			if s.limit.Wait(ctx) != nil {
				return
			}
			asking, cancel := context.WithTimeout(ctx, timeout)
			found, err := s.fetch(asking, w)
			cancel()
			s.learn(w, found, err, time.Now())
		}
	}
}

// learn takes an answer of the registry. Another schema under the id is like none: the
// registry may have lost its data, and get it back. A schema with the right fingerprint
// is the right one, whatever it was found under.
func (s *Schemas) learn(w writer, found sr.Schema, err error, now time.Time) {
	schema, err := use(w, found, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if schema == nil {
		schema = s.withFingerprint(w.fingerprint)
	}
	k := s.known[w]
	k.asking, k.pending = false, nil
	switch {
	case schema != nil:
		k.schema = schema
		s.text += schema.size
		s.makeRoom()
	case errors.As(err, new(*UnusableError)):
		k.final, k.until = err, now.Add(finalFor)
	case isDenial(err):
		if k.denied.IsZero() {
			k.denied = now
		}
		k.pending, k.again = err, now.Add(s.Settle/4)
		believed := s.Settle
		if w.fingerprint != "" {
			believed = s.Restore
		}
		if now.Sub(k.denied) >= believed {
			k.final, k.until = err, now.Add(finalFor)
		}
	default:
		k.pending, k.again, k.denied = explain(err), now.Add(k.backoff.Delay()), time.Time{}
		s.warn.Do(func() { s.log.Warn("schema not fetched, events with it wait", "schema_id", w.id, "err", k.pending) })
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// withFingerprint returns a known schema, nil for none.
func (s *Schemas) withFingerprint(fingerprint string) *Schema {
	for w, k := range s.known {
		if fingerprint != "" && w.fingerprint == fingerprint && k.schema != nil {
			return k.schema
		}
	}
	return nil
}
