package pump

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/bridge/internal/track"
)

// A seal and the longest map fit into the metadata of a commit.
const _ = uint(4096 - track.MaxMetadata - seal.Size)

// errNoKey is fit for an operator: no commit is stored without a seal.
var errNoKey = errors.New("no key to seal commits with: BRIDGE_STATE_KEY_FILE cannot be used")

func (s *Subscription) place(partition int, offset int64) seal.Place {
	return seal.Place{Group: s.cfg.Group, Topic: s.cfg.Topic, Partition: partition, Offset: offset}
}

// unseal returns the map of a stored offset, and the key if it is sealed with the
// first one. wrong says why the offset is not the bridge's own; its map is then
// worth nothing. An offset that is not there cannot be wrong: a new group has
// none either, and beginning at the start of the topic skips nothing.
func (s *Subscription) unseal(stored group.Partition) (metadata string, key []byte, wrong error) {
	if s.cfg.Keys == nil || stored.Offset < 0 {
		return stored.Metadata, nil, nil
	}
	keys := s.cfg.Keys()
	if len(keys) == 0 {
		return "", nil, errNoKey
	}
	metadata, old, err := keys.Open(s.place(stored.ID, stored.Offset), stored.Metadata)
	if err == nil && !old {
		key = keys[0]
	}
	return metadata, key, err
}

// hold keeps a partition whose stored offset is not the bridge's own: nothing is
// fetched, posted, dead-lettered or committed, for a commit would seal what
// somebody else has written. It ends with true when an operator accepts the
// offset, or the key that it was sealed with comes back, and with false at the
// end of ctx.
func (p *partition) hold(ctx context.Context) bool {
	since, again := time.Now(), time.NewTicker(time.Second)
	defer again.Stop()
	var shown time.Time
	for {
		if time.Since(shown) >= showHeldEvery {
			p.showHeld(ctx, since)
			shown = time.Now()
		}
		select {
		case <-ctx.Done():
			return false
		case ask := <-p.skips:
			ask.answer <- &RefusedError{"the partition is not delivered, because its offset is not sealed; see bridge offsets accept"}
		case ask := <-p.accepts:
			err := p.committer.store(p.stored.Offset)
			ask <- err
			if err == nil {
				return true
			}
		case <-again.C:
			metadata, key, wrong := p.sub.unseal(p.stored)
			if wrong != nil {
				continue
			}
			p.sub.log.Info("offset is sealed with a key that is known now", "partition", p.id, "offset", p.stored.Offset)
			p.tracker = track.New(p.stored.Offset, metadata)
			p.committer.tracker, p.committer.key = p.tracker, key
			return true
		}
	}
}

// showHeldEvery is how often a held partition, which fetches nothing, asks for its end.
const showHeldEvery = 10 * time.Second

func (p *partition) showHeld(ctx context.Context, since time.Time) {
	s := Status{Partition: p.id, Committed: p.stored.Offset, End: -1, Blocking: &Block{Offset: p.stored.Offset, Reason: p.unsealed.Error()}}
	b := &p.status
	set := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.s, b.blocked, b.oldest = s, "unsealed", since
	}
	set() // the brokers may take their time
	if st, err := p.sub.standing(ctx); err == nil && p.id < len(st.bounds) {
		s.End, s.Lag = st.bounds[p.id].End, st.lag(p.id)
		set()
	}
}

// Accepted is an offset that an operator has accepted.
type Accepted struct {
	Partition int   `json:"partition"`
	Offset    int64 `json:"offset"`
}

// RefusedError says why what an operator asked for was not done.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

var errMoved = &RefusedError{"the partition has moved to another member of the group, or the bridge is stopping; ask again there"}

// Accept seals the stored offsets of the partitions that wait for it, or of one
// of them, and lets them be delivered from there. Their maps stay ignored. It
// knows only the partitions of this member. by is who wants it.
func (s *Subscription) Accept(ctx context.Context, one *int, by string) ([]Accepted, error) {
	accepted := []Accepted{}
	for _, p := range s.current() {
		if one != nil && *one != p.id {
			continue
		}
		ask := make(chan error, 1)
		select {
		case p.accepts <- ask:
		case <-p.started: // it does not wait for this
			continue
		case <-p.over:
			continue
		case <-ctx.Done():
			return accepted, ctx.Err()
		}
		if err := <-ask; err != nil {
			return accepted, fmt.Errorf("store the offset of partition %d with a seal: %w", p.id, err)
		}
		accepted = append(accepted, Accepted{p.id, p.stored.Offset})
		s.metrics.accepted.WithLabelValues(s.cfg.Name).Inc()
		s.log.Warn("unsealed offset accepted by an operator", "topic", s.cfg.Topic, "partition", p.id, "offset", p.stored.Offset, "by", by)
	}
	if len(accepted) == 0 {
		return nil, &RefusedError{"no such partition of this bridge waits for its offset to be accepted; GET /subscriptions shows which do, at the replica that has the partition"}
	}
	return accepted, nil
}

// current is the partitions of this member, in their order.
func (s *Subscription) current() []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*partition
	for _, p := range s.partitions {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *partition) int { return a.id - b.id })
	return list
}
