package pump_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// TestARebalanceInterruptsOnlyWhatMoves: a second bridge joins while posts of a partition
// that stays and of one that moves are in flight. The first goes on as if nothing had
// happened; the second is finished and committed before its partition moves. Nothing is
// posted twice.
func TestARebalanceInterruptsOnlyWhatMoves(t *testing.T) {
	const each = 40
	var mu sync.Mutex
	staying, moving := make(chan struct{}), make(chan struct{})
	held := map[string]bool{}
	s := newSink(t, func(id string, _ int) int {
		hold := map[string]chan struct{}{"0/00003": staying, "11/00003": moving}[id]
		if hold != nil {
			mu.Lock()
			held[id] = true
			mu.Unlock()
			<-hold
		}
		return 204
	})
	b := setup(t, s.server.URL)
	b.cfg.Timeout, b.cfg.Drain = 50*b.cfg.Timeout, 50*b.cfg.Drain // nothing ends but by an answer
	b.widen(each)
	first, stopFirst := b.run()
	until(t, "two posts in flight", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(held) == 2 && len(s.accepted()) == wide*each-2-2*((each-3-1)/7)
	})
	b.cfg.InstanceID = "two"
	second, stopSecond := b.run()
	until(t, "the moving partitions but one drained", func() bool { return len(of(first)) == wide/2+1 })
	if got := of(second); len(got) > 0 {
		t.Errorf("the second bridge has partitions %v while the first drains one", got)
	}
	close(moving)
	until(t, "the second bridge has its share", func() bool { return len(of(second)) == wide/2 })
	if got := of(first); len(got) != wide/2 || got[0] != 0 {
		t.Errorf("the first bridge has partitions %v", got)
	}
	if n := s.count("0/00003"); n != 1 {
		t.Errorf("the post in flight of a partition that stays was made %d times", n)
	}
	close(staying)
	b.untilStored(each)
	stopSecond()
	until(t, "all back", func() bool { return len(of(first)) == wide })
	stopFirst()
	inOrder(t, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.posts) != wide*each {
		var twice []string
		for id, n := range s.tries {
			if n > 1 {
				twice = append(twice, id)
			}
		}
		t.Errorf("%d posts, want %d; twice: %s", len(s.posts), wide*each, strings.Join(twice, " "))
	}
}

// TestAPartitionThatComesBackIsReadAgain: what a member had read of a partition and
// not finished when it lost it, it reads again when it gets the partition back.
func TestAPartitionThatComesBackIsReadAgain(t *testing.T) {
	const each = 5
	var mended atomic.Bool
	s := newSink(t, func(id string, _ int) int {
		if strings.HasPrefix(id, "11/") && !mended.Load() {
			return 503
		}
		return 204
	})
	b := setup(t, s.server.URL)
	b.widen(each)
	first, stopFirst := b.run()
	until(t, "an event that fails", func() bool { return s.count("11/00003") > 0 })
	b.cfg.InstanceID = "two"
	second, stopSecond := b.run()
	until(t, "the second bridge has its share", func() bool { return slices.Contains(of(second), 11) })
	stopSecond()
	until(t, "all back", func() bool { return len(of(first)) == wide })
	mended.Store(true)
	b.untilStored(each)
	stopFirst()
	inOrder(t, s)
}

// of is the partitions that a subscription works on.
func of(s *pump.Subscription) []int {
	var ids []int
	for _, p := range s.Status() {
		ids = append(ids, p.Partition)
	}
	slices.Sort(ids)
	return ids
}
