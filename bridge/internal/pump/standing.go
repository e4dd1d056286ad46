package pump

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/internal/kafka"
)

// standing is what the brokers know of the group, the same for whoever asks.
type standing struct {
	group.Description
	committed []int64 // by partition; -1 for nothing
	bounds    []kafka.Bounds
	notes     map[int]note // of the owners, whose members they name
	noNotes   error        // why there are none
}

const (
	// standingFor is how long an answer of the brokers serves everybody who asks, so
	// that a page which is reloaded all the time asks them no more often.
	standingFor     = time.Second
	standingTimeout = 3 * time.Second
)

// standings asks the brokers, for one caller at a time.
type standings struct {
	turn chan struct{} // held while last is read or replaced
	last standing
	err  error
	at   time.Time
}

func newStandings() *standings { return &standings{turn: make(chan struct{}, 1)} }

func (s *Subscription) standing(ctx context.Context) (standing, error) {
	st := s.standings
	select {
	case st.turn <- struct{}{}:
		defer func() { <-st.turn }()
	case <-ctx.Done():
		return standing{}, ctx.Err()
	}
	if !st.at.IsZero() && time.Since(st.at) < standingFor {
		return st.last, st.err
	}
	// Others wait for the same answer: it does not end with who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), standingTimeout)
	defer cancel()
	st.last, st.err = s.ask(ctx)
	if st.err != nil {
		kafka.Forget(s.client) // a connection may have died, or a leader moved
	}
	st.at = time.Now()
	return st.last, st.err
}

func (s *Subscription) ask(ctx context.Context) (st standing, err error) {
	n, err := kafka.Partitions(ctx, s.client, s.cfg.Topic)
	if err != nil {
		return st, err
	}
	if st.bounds, err = kafka.TopicBounds(ctx, s.client, s.cfg.Topic, n); err != nil {
		return st, err
	}
	stored, err := kafka.StoredOffsets(ctx, s.client, s.cfg.Group, s.cfg.Topic, n)
	if err != nil {
		return st, err
	}
	st.committed = make([]int64, n)
	for id, p := range stored {
		st.committed[id] = p.CommittedOffset
	}
	if st.Description, err = group.Describe(ctx, s.client, s.cfg.Group, s.cfg.Topic); err != nil {
		return st, err
	}
	notes, err := kafka.StoredOffsets(ctx, s.client, s.notesGroup(), s.cfg.Topic, n)
	if err != nil {
		st.noNotes = err
		return st, nil //nolint:nilerr // the rest is known, and whoever asks is told
	}
	st.notes = map[int]note{}
	for id, p := range notes {
		if one, err := decodeNote(p.Metadata); err == nil {
			st.notes[id] = one
		}
	}
	return st, nil
}

// lag is how many offsets are not committed yet. Without a commit a group begins
// at the first there is, and records that were deleted unread wait for nobody.
func (st standing) lag(id int) int64 {
	return max(0, st.bounds[id].End-max(st.committed[id], st.bounds[id].First))
}
