package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// ledger checks the guarantee of a group: a partition has one owner at a time.
type ledger struct {
	t      *testing.T
	mu     sync.Mutex
	owners map[int]*group.Session
	turns  int
}

// begin records the owner of partitions. A previous owner must have returned, or know, or
// be able to tell by its clock, that it may have lost them.
func (l *ledger) begin(s *group.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turns++
	for _, p := range s.Partitions {
		if o := l.owners[p.ID]; o != nil && !isLost(o) && o.Confirmed() {
			l.t.Errorf("partition %d assigned to %s in generation %d while %s of generation %d works on it",
				p.ID, s.MemberID, s.Generation, o.MemberID, o.Generation)
		}
		l.owners[p.ID] = s
	}
}

// end commits and releases the partitions. Only the owner's commit may succeed.
func (l *ledger) end(ctx context.Context, s *group.Session) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	offsets := map[int]group.Offset{}
	for _, p := range s.Partitions {
		offsets[p.ID] = group.Offset{Offset: int64(s.Generation)}
	}
	err := s.Commit(ctx, offsets)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range s.Partitions {
		if err == nil && l.owners[p.ID] != s {
			l.t.Errorf("partition %d: commit of generation %d stored, its owner has generation %d", p.ID, s.Generation, l.owners[p.ID].Generation)
		}
		if l.owners[p.ID] == s {
			delete(l.owners, p.ID)
		}
	}
	return nil
}

// missing reports a member without partitions or a partition without an owner; "" when
// there is none. There are no more members than partitions.
func (l *ledger) missing(members, partitions int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	owners := map[*group.Session]bool{}
	for _, s := range l.owners {
		owners[s] = true
	}
	if len(owners) == members && (len(l.owners) == partitions || members == 0) {
		return ""
	}
	return fmt.Sprintf("%d of %d partitions have an owner, %d of %d members own some", len(l.owners), partitions, len(owners), members)
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns
}

func isLost(s *group.Session) bool {
	select {
	case <-s.Lost():
		return true
	default:
		return false
	}
}

// TestChurn: members come, go, drain for long and are disconnected, the broker restarts; at
// no time may two of them work on one partition, and when things settle each partition has
// an owner.
func TestChurn(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, 7, func(t *testing.T, w *world) { churn(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func churn(t *testing.T, w *world, r *rand.Rand) {
	l := &ledger{t: t, owners: map[int]*group.Session{}}
	var running []*runner
	instances := 0
	for range 60 {
		switch n := r.IntN(10); {
		case n < 3 && len(running) < 5:
			instance := ""
			if r.IntN(2) == 0 {
				instances++
				instance = fmt.Sprint("bridge-", instances)
			}
			m := w.member(instance, drain(rand.N(12*time.Second)), atEnd(l.end))
			m.atBegin = l.begin
			running = append(running, m.start())
		case n < 5 && len(running) > 1:
			i := r.IntN(len(running))
			m := running[i]
			running = slices.Delete(running, i, i+1)
			m.cancel() // it drains while the test continues
		case n < 6 && len(running) > 0:
			m := running[r.IntN(len(running))]
			m.cut()
			away := time.Duration(r.IntN(30)) * time.Second
			time.AfterFunc(away, func() { m.dead.Store(false) })
		case n < 7:
			w.restart(time.Duration(r.IntN(4)) * time.Second)
		default:
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
		}
	}
	time.Sleep(5 * time.Minute) // longer than two rebalances that wait for a dead member
	for _, m := range running {
		select {
		case <-m.done:
			t.Errorf("Run: %v", m.err)
		default:
		}
	}
	if missing := l.missing(len(running), 7); missing != "" {
		t.Error(missing)
	}
	t.Logf("%d members, %d sessions", len(w.members), l.turns)
	for _, m := range w.members {
		m.cancel()
		<-m.done
	}
}

// TestKafkaChurn is TestChurn in real time, for a minute on Apache Kafka: members come,
// stop, are disconnected or killed, and killed static ones restart at once; halfway through
// the broker is killed.
func TestKafkaChurn(t *testing.T) {
	lasts := 10 * time.Second
	if kafkatest.IsReal() {
		lasts = time.Minute
	}
	c := kafkatest.StartOwn(t)
	s := &storm{
		t: t, c: c, topic: c.Topic(t, 7), r: rand.New(rand.NewPCG(rand.Uint64(), 1)),
		l: &ledger{t: t, owners: map[int]*group.Session{}},
	}
	for range 3 {
		s.join("")
	}
	half, end := time.Now().Add(lasts/2), time.Now().Add(lasts)
	for killed := false; time.Now().Before(end); {
		if !killed && time.Now().After(half) {
			killed = true
			if err := errors.Join(c.Kill(), c.Restart()); err != nil {
				t.Fatal(err)
			}
		}
		s.step()
	}
	s.settle()
	for _, m := range s.running {
		m.stop()
	}
	for _, m := range s.gone {
		if err := <-m.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Logf("%d members, %d sessions", s.n, s.l.turns)
}

type storm struct {
	t             *testing.T
	c             *kafkatest.Cluster
	topic         string
	r             *rand.Rand
	l             *ledger
	n             int
	running, gone []*live
}

// step makes one random change.
func (s *storm) step() {
	switch n := s.r.IntN(16); {
	case n < 4 && len(s.running) < 5:
		instance := ""
		if s.r.IntN(2) == 0 {
			instance = fmt.Sprint("bridge-", s.n)
		}
		s.join(instance)
	case n < 6 && len(s.running) > 1:
		s.take().cancel()
	case n < 7 && len(s.running) > 1:
		m := s.take()
		m.kill()
		m.handling.Lock() // wait until its handler has returned
		m.handling.Unlock()
		if m.cfg.InstanceID != "" {
			s.join(m.cfg.InstanceID)
		}
	case n < 8:
		s.running[s.r.IntN(len(s.running))].cut(time.Duration(s.r.IntN(8000)) * time.Millisecond)
	default:
		<-time.After(time.Duration(s.r.IntN(2000)) * time.Millisecond)
	}
}

// take picks a member to stop.
func (s *storm) take() *live {
	i := s.r.IntN(len(s.running))
	m := s.running[i]
	s.running = slices.Delete(s.running, i, i+1)
	s.gone = append(s.gone, m)
	return m
}

func (s *storm) join(instance string) {
	s.n++
	drain := time.Duration(s.r.IntN(2000)) * time.Millisecond
	s.running = append(s.running, join(s.t, s.c.Brokers, s.topic, instance, func(m *live) {
		m.cfg.RebalanceTimeout = 15 * time.Second
		m.atBegin = s.l.begin
		m.atEnd = func(ctx context.Context, session *group.Session) error {
			select {
			case <-time.After(drain):
			case <-session.Lost():
			case <-m.killed: // a killed process commits nothing
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				cancel()
			}
			return s.l.end(ctx, session)
		}
	}))
}

// settle waits until each partition has had the same owner for several heartbeats.
func (s *storm) settle() {
	s.t.Helper()
	began, since, turns := time.Now(), time.Now(), 0
	for time.Since(since) < 2*time.Second {
		missing := s.l.missing(len(s.running), 7)
		if n := s.l.count(); missing != "" || n != turns {
			since, turns = time.Now(), n
		}
		if time.Since(began) > time.Minute {
			s.t.Fatalf("the group has not settled after a minute: %s", missing)
		}
		<-time.After(10 * time.Millisecond)
	}
	s.t.Logf("settled after %v", time.Since(began)-2*time.Second)
}
