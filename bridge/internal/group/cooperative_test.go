package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/group"
)

// worker is the handler of a sticky member. It commits its turn's number for a partition
// when it gives it up, and checks that nobody else works on one that it has.
type worker struct {
	w     *bench
	drain time.Duration
	dead  chan struct{} // closed by die

	mu    sync.Mutex
	turns map[int]int // of each partition, how often this member began it
	now   map[int]int64
	s     *group.Session
}

// bench is what all workers share.
type bench struct {
	t     *testing.T
	mu    sync.Mutex
	owner map[int]*worker
	count map[int]int64 // next offset of each partition
	lost  int           // turns that ended without a commit

	unsure  map[int]bool // whether the last commit was stored
	foreign bool         // another program commits, too
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, owner: map[int]*worker{}, count: map[int]int64{}, unsure: map[int]bool{}}
}

func (b *bench) worker(drain time.Duration) *worker {
	return &worker{w: b, drain: drain, dead: make(chan struct{}), turns: map[int]int{}, now: map[int]int64{}}
}

func (k *worker) handle(ctx context.Context, s *group.Session) error {
	k.mu.Lock()
	k.s = s
	k.mu.Unlock()
	s.Each(ctx, func(ctx context.Context, p group.Partition) { k.work(ctx, s, p) })
	return nil
}

func (k *worker) work(ctx context.Context, s *group.Session, p group.Partition) {
	b := k.w
	b.mu.Lock()
	if o := b.owner[p.ID]; o != nil && !isLost(o.s) && o.s.Confirmed() {
		b.t.Errorf("partition %d has two owners", p.ID)
	}
	if got := max(p.Offset, 0); b.foreign || b.unsure[p.ID] && got == b.count[p.ID]+1 {
		b.count[p.ID] = got
	} else if got != b.count[p.ID] {
		b.t.Errorf("partition %d begins at %d, its last owner committed %d", p.ID, got, b.count[p.ID])
	}
	b.owner[p.ID] = k
	delete(b.unsure, p.ID)
	b.mu.Unlock()
	k.set(p.ID, 1)
	select {
	case <-ctx.Done():
	case <-k.dead:
	}
	select {
	case <-time.After(k.drain):
	case <-s.Lost():
	case <-k.dead:
		k.release(p.ID)
		return
	}
	k.end(context.WithoutCancel(ctx), s, p.ID)
}

// end commits a partition and gives it up.
func (k *worker) end(ctx context.Context, s *group.Session, id int) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b := k.w
	b.mu.Lock()
	next := b.count[id] + 1
	b.mu.Unlock()
	err := s.Commit(ctx, map[int]group.Offset{id: {Offset: next}})
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil && b.owner[id] != k:
		b.t.Errorf("partition %d: a commit was stored after another has begun", id)
	case err == nil:
		b.count[id] = next
	case errors.Is(err, context.DeadlineExceeded):
		b.lost++
		b.unsure[id] = true // it may have been stored
	case errors.Is(err, group.ErrFenced):
		b.lost++
	default:
		b.t.Errorf("partition %d: %v", id, err)
	}
	k.released(id)
}

// die ends the worker as a SIGKILL does: it commits nothing.
func (k *worker) die() {
	close(k.dead)
	for len(k.has()) > 0 {
		time.Sleep(time.Millisecond)
	}
}

func (k *worker) release(id int) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.released(id)
}

// released needs the lock of the bench.
func (k *worker) released(id int) {
	if k.w.owner[id] == k {
		delete(k.w.owner, id)
	}
	k.set(id, -1)
}

func (k *worker) set(id, by int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if by > 0 {
		k.turns[id]++
		k.now[id] = 0
		return
	}
	delete(k.now, id)
}

func (k *worker) session() *group.Session {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.s
}

func (k *worker) has() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := make([]int, 0, len(k.now))
	for id := range k.now {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// sticky starts a member with a worker.
func (w *world) sticky(instance string, b *bench, drain time.Duration, options ...func(*group.Config, *runner)) (*runner, *worker) {
	r := w.member(instance, append([]func(*group.Config, *runner){func(c *group.Config, _ *runner) { c.Sticky = true }}, options...)...)
	k := b.worker(drain)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		defer r.transport.CloseIdleConnections()
		r.err = r.Run(ctx, k.handle)
	}()
	return r, k
}

// settled waits until the workers have all partitions, as evenly as that goes.
func settled(t *testing.T, partitions int, workers ...*worker) {
	t.Helper()
	var have []string
	for range 3000 {
		all, even := 0, true
		have = nil
		for _, k := range workers {
			n := len(k.has())
			all += n
			even = even && n >= partitions/len(workers) && n <= partitions/len(workers)+1
			have = append(have, fmt.Sprint(k.has()))
		}
		if all == partitions && even {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("not settled after 150s: %s", strings.Join(have, " "))
}

// stayed checks that a worker has had each partition of ids without an interruption.
func (k *worker) stayed(ids []int) {
	k.w.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if _, has := k.now[id]; !has || k.turns[id] != 1 {
			k.w.t.Errorf("partition %d was begun %d times, has it: %t", id, k.turns[id], has)
		}
	}
}

// TestStickyJoinAndLeave: a rebalance interrupts only what moves; what stays is worked on
// throughout, by the same call, also while another partition drains for long.
func TestStickyJoinAndLeave(t *testing.T) {
	inWorld(t, 6, func(t *testing.T, w *world) {
		b := newBench(t)
		ra, a := w.sticky("", b, 8*time.Second)
		settled(t, 6, a)
		session := a.session()
		rc, c := w.sticky("", b, 0)
		time.Sleep(7 * time.Second)
		if n := len(c.has()); n > 0 {
			t.Errorf("the second member has %d partitions while the first drains", n)
		}
		settled(t, 6, a, c)
		a.stayed(a.has())
		if a.session() != session {
			t.Error("the session of the first member ended")
		}
		if !session.Confirmed() {
			t.Error("not confirmed after the rebalance")
		}
		kept := a.has()
		if err := session.Commit(t.Context(), map[int]group.Offset{kept[0]: {Offset: b.count[kept[0]]}}); err != nil {
			t.Error(err)
		}
		if err := rc.stop(); err != nil {
			t.Error(err)
		}
		settled(t, 6, a)
		a.stayed(kept)
		if err := ra.stop(); err != nil {
			t.Error(err)
		}
		if n := len(w.GroupInfo(name).Members); n != 0 || b.lost > 0 {
			t.Errorf("%d members left behind, %d turns without a commit", n, b.lost)
		}
	})
}

// TestStickyKill: a member that dies gives its partitions to the others, who keep theirs. The
// first member leads.
func TestStickyKill(t *testing.T) {
	for _, victim := range []int{0, 1} {
		for _, instance := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/static %t", victim, instance), func(t *testing.T) {
				inWorld(t, 6, func(t *testing.T, w *world) {
					b := newBench(t)
					var runners []*runner
					var workers []*worker
					for i := range 3 {
						id := ""
						if instance {
							id = fmt.Sprint("bridge-", i)
						}
						r, k := w.sticky(id, b, time.Second)
						runners, workers = append(runners, r), append(workers, k)
						settled(t, 6, workers...)
					}
					others := slices.Delete(slices.Clone(workers), victim, victim+1)
					kept := [][]int{others[0].has(), others[1].has()}
					runners[victim].kill()
					settled(t, 6, others...)
					for i, k := range others {
						k.stayed(kept[i])
					}
					for i, r := range runners {
						if i != victim {
							_ = r.stop()
						}
					}
				})
			})
		}
	}
}

// TestStickyStopInRebalance: a stop in the middle of a rebalance drains and commits.
func TestStickyStopInRebalance(t *testing.T) {
	for _, after := range []time.Duration{0, 2 * time.Second, 4 * time.Second, 7 * time.Second, 10 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			inWorld(t, 6, func(t *testing.T, w *world) {
				b := newBench(t)
				ra, a := w.sticky("", b, 5*time.Second)
				settled(t, 6, a)
				rc, c := w.sticky("", b, 5*time.Second)
				time.Sleep(after)
				began := time.Now()
				if err := ra.stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 12*time.Second {
					t.Errorf("stopped after %v, with a drain of 5s", took)
				}
				settled(t, 6, c)
				if b.lost > 0 {
					t.Errorf("%d turns ended without a commit", b.lost)
				}
				_ = rc.stop()
			})
		})
	}
}

// TestStickyCommitWhileJoining: a commit that meets the change of the generation is tried
// again in the next one; it ends no session.
func TestStickyCommitWhileJoining(t *testing.T) {
	inWorld(t, 6, func(t *testing.T, w *world) {
		b := newBench(t)
		ra, a := w.sticky("", b, 0)
		settled(t, 6, a)
		rc, c := w.sticky("", b, 0)
		settled(t, 6, a, c)
		w.grow(7) // the leader joins again, and waits for the next heartbeat of the other
		for w.GroupInfo(name).State != "PreparingRebalance" {
			time.Sleep(10 * time.Millisecond)
		}
		fault(t, w, kmsg.OffsetCommit, kerr.IllegalGeneration, 1)
		id, s := a.has()[0], a.session()
		if err := s.Commit(t.Context(), map[int]group.Offset{id: {Offset: b.count[id]}}); err != nil || isLost(s) {
			t.Errorf("Commit = %v, session lost: %t", err, isLost(s))
		}
		settled(t, 7, a, c)
		a.stayed(a.has())
		_, _ = ra.stop(), rc.stop()
	})
}

// TestStickyWithRange: when a consumer joins that knows range alone, the group goes over to
// range, no partition has two owners, and when it has left, the members are sticky again.
func TestStickyWithRange(t *testing.T) {
	inWorld(t, 6, func(t *testing.T, w *world) {
		b := newBench(t)
		ra, a := w.sticky("", b, 4*time.Second)
		settled(t, 6, a)
		rc, c := w.sticky("", b, time.Second)
		settled(t, 6, a, c)
		assigned := make(chan []int32, 10)
		theirs, err := kgo.NewClient(
			kgo.SeedBrokers("localhost:9092"), kgo.Dialer(w.net.DialContext), kgo.ConsumerGroup(name), kgo.ConsumeTopics(topic),
			kgo.Balancers(kgo.RangeBalancer()), kgo.DisableAutoCommit(),
			kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
				b.mu.Lock()
				for _, p := range got[topic] {
					if o := b.owner[int(p)]; o != nil {
						t.Errorf("partition %d given away while a member works on it", p)
					}
				}
				b.mu.Unlock()
				assigned <- got[topic]
			}))
		if err != nil {
			t.Fatal(err)
		}
		for len(<-assigned) != 2 {
		}
		settled(t, 4, a, c)
		theirs.Close()
		settled(t, 6, a, c)
		kept := a.has()
		turns := a.turns[kept[0]]
		rd, d := w.sticky("", b, 0)
		settled(t, 6, a, c, d)
		if a.turns[kept[0]] != turns {
			t.Error("a rebalance without the other consumer interrupted a partition that stays")
		}
		if b.lost > 0 {
			t.Errorf("%d turns ended without a commit", b.lost)
		}
		_, _, _ = rd.stop(), rc.stop(), ra.stop()
	})
}

// TestStickyTaken: a plan of a leader that knows of no claims ends what it takes away at
// once, without a drain, and nothing is committed any more.
func TestStickyTaken(t *testing.T) {
	inWorld(t, 6, func(t *testing.T, w *world) {
		b := newBench(t)
		ra, a := w.sticky("", b, 0) // leads
		settled(t, 6, a)
		rc, c := w.sticky("", b, time.Hour)
		settled(t, 6, a, c)
		lost, kept := c.session(), c.has()
		id, once := lost.MemberID, false
		w.ControlKey(int16(kmsg.SyncGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.KeepControl()
			if req.(*kmsg.SyncGroupRequest).MemberID != id || once {
				return nil, nil, false
			}
			once = true
			var plan kmsg.ConsumerMemberAssignment // without the mark
			plan.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: topic, Partitions: []int32{int32(kept[0])}}}
			res := req.ResponseKind().(*kmsg.SyncGroupResponse)
			res.MemberAssignment = plan.AppendTo(nil)
			return res, nil, true
		})
		w.grow(7) // the leader joins again
		<-lost.Lost()
		for c.session() == lost { // its drain would take an hour
			time.Sleep(10 * time.Millisecond)
		}
		if err := lost.Commit(t.Context(), map[int]group.Offset{kept[0]: {Offset: 99}}); !errors.Is(err, group.ErrFenced) {
			t.Errorf("Commit = %v, want ErrFenced", err)
		}
		settled(t, 7, a, c)
		c.drain = 0
		_, _ = rc.stop(), ra.stop()
	})
}

// TestStickyMorePartitions: new partitions are begun, and interrupt nothing.
func TestStickyMorePartitions(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		b := newBench(t)
		r, k := w.sticky("", b, 0)
		settled(t, 2, k)
		w.grow(5)
		settled(t, 5, k)
		k.stayed([]int{0, 1, 2, 3, 4})
		_ = r.stop()
	})
}

// TestStickyBrokerGone: the restart of a broker in the middle of a rebalance ends no turn.
func TestStickyBrokerGone(t *testing.T) {
	for _, after := range []time.Duration{0, 3 * time.Second, 6 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			inWorld(t, 6, func(t *testing.T, w *world) {
				b := newBench(t)
				long := session(45 * time.Second)
				ra, a := w.sticky("", b, 3*time.Second, long)
				settled(t, 6, a)
				rc, c := w.sticky("", b, 0, long)
				time.Sleep(after)
				w.restart(2 * time.Second)
				settled(t, 6, a, c)
				a.stayed(a.has())
				_, _ = ra.stop(), rc.stop()
			})
		})
	}
}

// TestStickyChurn is TestChurn for sticky members, some of whom know range alone.
func TestStickyChurn(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, 7, func(t *testing.T, w *world) { stickyChurn(t, w, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func stickyChurn(t *testing.T, w *world, r *rand.Rand) {
	b := newBench(t)
	type both struct {
		*runner
		k *worker
	}
	var running []both
	for i := range 60 {
		switch n := r.IntN(10); {
		case n < 3 && len(running) < 5:
			instance := ""
			if r.IntN(2) == 0 {
				instance = fmt.Sprint("bridge-", i)
			}
			sticky := r.IntN(4) > 0
			m, k := w.sticky(instance, b, rand.N(12*time.Second), func(c *group.Config, _ *runner) { c.Sticky = sticky })
			running = append(running, both{m, k})
		case n < 5 && len(running) > 1:
			j := r.IntN(len(running))
			running[j].cancel() // it drains while the test continues
			running = slices.Delete(running, j, j+1)
		case n < 6 && len(running) > 0:
			m := running[r.IntN(len(running))]
			m.cut()
			time.AfterFunc(time.Duration(r.IntN(30))*time.Second, func() { m.dead.Store(false) })
		case n < 7:
			w.restart(time.Duration(r.IntN(4)) * time.Second)
		default:
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
		}
	}
	time.Sleep(5 * time.Minute) // longer than two rebalances that wait for a dead member
	var workers []*worker
	for _, m := range running {
		workers = append(workers, m.k)
	}
	if len(workers) > 0 {
		settled(t, 7, workers...)
	}
	for _, m := range w.members {
		m.cancel()
		<-m.done
	}
}
