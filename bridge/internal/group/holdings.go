package group

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
)

// holdings is what a session works on, or is about to: what it claims in a rebalance.
type holdings struct {
	again chan struct{} // has an element when what was revoked has been drained

	mu       sync.Mutex // guards what follows
	each     func(context.Context, Partition)
	stopped  bool // Each begins nothing more
	items    map[int]*holding
	draining int // revoked and not yet released
	working  sync.WaitGroup
}

// holding is one partition. ctx ends when it is revoked, and with the session's work.
type holding struct {
	ctx     context.Context
	revoke  context.CancelCauseFunc
	revoked bool
}

// add claims partitions.
func (h *holdings) add(work context.Context, ids []int) {
	if h.items == nil {
		h.items = map[int]*holding{}
	}
	for _, id := range ids {
		ctx, revoke := context.WithCancelCause(work)
		h.items[id] = &holding{ctx: ctx, revoke: revoke}
	}
}

// Each calls work for each partition of the session, in a goroutine of its own, and returns
// when ctx, the handler's, has ended and all calls have returned. The context of a call
// ends when its partition is revoked; the cause is that of Handler. Until the call returns
// the partition is this member's: it drains and commits first.
func (s *Session) Each(ctx context.Context, work func(context.Context, Partition)) {
	h := &s.held
	h.mu.Lock()
	h.each = work
	for _, p := range s.Partitions {
		h.begin(p)
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.working.Wait()
}

// begin needs the lock.
func (h *holdings) begin(p Partition) {
	item := h.items[p.ID]
	h.working.Go(func() {
		defer h.release(p.ID)
		h.each(item.ctx, p)
	})
}

// release gives up a partition: it is no longer claimed.
func (h *holdings) release(id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	item := h.items[id]
	delete(h.items, id)
	item.revoke(nil)
	if !item.revoked {
		return
	}
	if h.draining--; h.draining == 0 {
		select {
		case h.again <- struct{}{}:
		default:
		}
	}
}

func (s *Session) owned() []int {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	return slices.Sorted(maps.Keys(s.held.items))
}

// rebalance joins again. What stays is not interrupted if the group's protocol and the
// handler allow that; otherwise the handler drains first, and Run joins.
func (s *Session) rebalance(ctx context.Context) {
	h := &s.held
	h.mu.Lock()
	goesOn := s.m.cfg.Sticky && s.g.protocol == protocolSticky && h.each != nil
	busy := h.stopped || h.draining > 0
	h.mu.Unlock()
	switch {
	case !goesOn:
		s.revoke(ErrRebalance)
	case busy || s.work.Err() != nil:
		// It joins when what was revoked is drained, or leaves. The group waits, and
		// heartbeats go on.
	default:
		s.rejoin(ctx)
	}
}

// rejoin takes part in a rebalance while the handler is at work. A stop does not interrupt
// it: the handler drains meanwhile and commits in the generation that the join leads to.
func (s *Session) rejoin(ctx context.Context) {
	s.joining.Store(true)
	defer s.joining.Store(false)
	select {
	case <-s.held.again: // this is that join
	default:
	}
	for backoff := newBackoff(); ; {
		g, err := s.m.joinOnce(ctx, s)
		switch {
		case err == nil:
			s.m.succeed()
			s.confirm(g.synced)
			s.adopt(g)
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, kafkago.UnknownMemberId), errors.Is(err, kafkago.FencedInstanceID):
			s.lose(err)
			return
		case !errors.Is(err, kafkago.RebalanceInProgress):
			s.m.fail("join group "+s.m.cfg.Group, err)
		}
		if backoff.Wait(ctx) != nil {
			return
		}
	}
}

// adopt begins a generation: it starts what was gained and revokes what was lost.
func (s *Session) adopt(g generation) {
	s.g = g
	h := &s.held
	h.mu.Lock()
	var gained, revoked []int
	for _, id := range g.assigned {
		if h.items[id] == nil {
			gained = append(gained, id)
		}
	}
	for id := range h.items {
		if !slices.Contains(g.assigned, id) {
			revoked = append(revoked, id)
		}
	}
	slices.Sort(revoked)
	if len(revoked) > 0 && !g.marked {
		h.mu.Unlock()
		s.lose(errTaken)
		return
	}
	h.draining = len(revoked)
	for _, id := range revoked {
		h.items[id].revoked = true
		h.items[id].revoke(ErrRebalance)
	}
	if h.stopped || s.work.Err() != nil {
		gained = nil // it is about to leave
	}
	s.gain(gained)
	h.mu.Unlock()
	s.m.rebalanced(g, gained, revoked)
}

// gain begins partitions when their offsets have been read. It needs the lock of holdings.
func (s *Session) gain(ids []int) {
	if len(ids) == 0 {
		return
	}
	h := &s.held
	h.add(s.work, ids)
	h.working.Go(func() {
		partitions, err := s.m.committed(s.work, ids)
		if err != nil { // only the end of work ends the reading
			for _, id := range ids {
				h.release(id)
			}
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range partitions {
			h.begin(p)
		}
	})
}
