package pgstore_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// leader counts the turns of several stores that want to lead.
type leader struct {
	now, most, turns atomic.Int64
}

// lead runs one of them until the returned function is called.
func (l *leader) lead(t *testing.T, s *pgstore.Store) (leads *atomic.Bool, stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	leads = &atomic.Bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Lead(ctx, func(term context.Context) {
			leads.Store(true)
			l.turns.Add(1)
			n := l.now.Add(1)
			for old := l.most.Load(); n > old && !l.most.CompareAndSwap(old, n); old = l.most.Load() {
			}
			select {
			case <-term.Done():
			case <-ctx.Done():
			}
			l.now.Add(-1)
			leads.Store(false)
		})
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return leads, stop
}

func TestOneLeads(t *testing.T) {
	db := pgtest.Start(t)
	var l leader
	var leads [3]*atomic.Bool
	var stops [3]func()
	for i := range leads {
		s, _ := start(t, config(db))
		leads[i], stops[i] = l.lead(t, s)
	}
	for range 2 {
		apptest.Await(t, "one leads", func() bool { return l.now.Load() == 1 })
		began, turns := time.Now(), l.turns.Load()
		for i := range leads {
			if leads[i].Load() {
				stops[i]()
				break
			}
		}
		apptest.Await(t, "another goes on", func() bool { return l.turns.Load() > turns })
		if d := time.Since(began); d > 800*time.Millisecond {
			t.Errorf("it took %v, although the lock was given up", d)
		}
	}
	if l.most.Load() != 1 {
		t.Errorf("%d led at a time", l.most.Load())
	}
}

// A session that ends takes the turn with it.
func TestALostSessionEndsTheTurn(t *testing.T) {
	db := pgtest.Start(t)
	var l leader
	one, _ := start(t, config(db))
	two, _ := start(t, config(db))
	l.lead(t, one)
	l.lead(t, two)
	for turn := int64(1); turn <= 5; turn++ {
		apptest.Await(t, "a turn", func() bool { return l.turns.Load() >= turn && l.now.Load() == 1 })
		db.Terminate(t)
		apptest.Await(t, "the next turn", func() bool { return l.turns.Load() > turn })
	}
}

// A commit of another replica wakes the relay at once.
func TestACommitOfAnotherReplicaWakesTheRelay(t *testing.T) {
	db := pgtest.Start(t)
	var l leader
	one, _ := start(t, config(db))
	two, _ := start(t, config(db))
	leads, _ := l.lead(t, one)
	apptest.Await(t, "the first leads", leads.Load)
	var slow int
	for range 10 {
		for drained := false; !drained; { // a wake-up of the slow poll
			select {
			case <-one.Wake():
			default:
				drained = true
			}
		}
		if _, err := two.Create(t.Context(), task.Create{Title: "x", Origin: origin}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-one.Wake()
		if time.Since(began) > 300*time.Millisecond {
			slow++
		}
	}
	if slow > 3 {
		t.Errorf("%d of 10 commits were found by polling only", slow)
	}
}

// A database that is down is not ready, and ready again by itself.
func TestReadyFollowsTheServer(t *testing.T) {
	server := pgtest.StartOwn(t)
	var l leader
	s, _ := start(t, config(server.Database(t)))
	l.lead(t, s)
	for range 2 {
		apptest.Await(t, "it is ready", func() bool { return s.Ready() == nil && l.now.Load() == 1 })
		if err := server.Immediate(); err != nil {
			t.Fatal(err)
		}
		apptest.Await(t, "it is not ready", func() bool { return s.Ready() != nil && l.now.Load() == 0 })
		if err := s.Check(); err != nil {
			t.Errorf("Check = %v; a restart of this process would not help", err)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}
