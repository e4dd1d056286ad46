package pump

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/internal/kafka"
)

// standing is what the brokers know of the group, the same for whoever asks.
type standing struct {
	group.Description
	committed []int64 // by partition; -1 for nothing
	first     []int64
	end       []int64
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
	if st.first, st.end, err = s.offsets(ctx, n); err != nil {
		return st, err
	}
	stored, err := s.stored(ctx, s.cfg.Group, n)
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
	notes, err := s.stored(ctx, s.notesGroup(), n)
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

// offsets returns the first offset and the end of each partition.
func (s *Subscription) offsets(ctx context.Context, n int) (first, end []int64, err error) {
	first, end = make([]int64, n), make([]int64, n)
	var asked []kafkago.OffsetRequest
	for id := range n {
		asked = append(asked, kafkago.FirstOffsetOf(id), kafkago.LastOffsetOf(id))
	}
	resp, err := s.client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{s.cfg.Topic: asked}})
	if err != nil {
		return nil, nil, fmt.Errorf("look up the end of topic %s: %w", s.cfg.Topic, kafka.Plain(err))
	}
	answered := 0
	for _, p := range resp.Topics[s.cfg.Topic] {
		if p.Error != nil {
			return nil, nil, fmt.Errorf("look up the end of %s/%d: %w", s.cfg.Topic, p.Partition, p.Error)
		}
		if p.Partition >= 0 && p.Partition < n {
			first[p.Partition], end[p.Partition] = p.FirstOffset, p.LastOffset
			answered++
		}
	}
	if answered != n {
		return nil, nil, fmt.Errorf("look up the end of topic %s: %d of %d partitions answered", s.cfg.Topic, answered, n)
	}
	return first, end, nil
}

// stored returns what a group has stored for each partition.
func (s *Subscription) stored(ctx context.Context, name string, n int) (map[int]kafkago.OffsetFetchPartition, error) {
	all := make([]int, n)
	for id := range all {
		all[id] = id
	}
	resp, err := s.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: name, Topics: map[string][]int{s.cfg.Topic: all}})
	if err == nil {
		err = resp.Error
	}
	if err != nil {
		return nil, fmt.Errorf("look up the offsets of group %s: %w", name, kafka.Plain(err))
	}
	found := map[int]kafkago.OffsetFetchPartition{}
	for _, p := range resp.Topics[s.cfg.Topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("look up the offset of group %s in %s/%d: %w", name, s.cfg.Topic, p.Partition, p.Error)
		}
		if p.Partition >= 0 && p.Partition < n {
			found[p.Partition] = p
		}
	}
	if len(found) != n {
		return nil, errors.New("look up the offsets of group " + name + ": not all partitions answered")
	}
	return found, nil
}

// lag is how many offsets are not committed yet. Without a commit a group begins
// at the first there is, and records that were deleted unread wait for nobody.
func (st standing) lag(id int) int64 {
	return max(0, st.end[id]-max(st.committed[id], st.first[id]))
}
