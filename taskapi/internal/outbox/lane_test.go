package outbox_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
)

// running starts a relay that the returned function stops.
func running(w *world) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { relay(w, outbox.Config{}).Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

// A partition without a leader delays its own events only, whatever waits for it.
func TestAPartitionThatStandsStillDelaysOnlyItsOwnEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.partitions = 3
		w.set(true, "c")
		w.add(3000, "c") // three pages, before the first event of the others
		w.add(1, "a", "b")
		stop := running(w)
		for i := range 200 { // 20 s
			began := time.Now()
			for w.waiting("a")+w.waiting("b") > 0 {
				if time.Since(began) > time.Second {
					t.Fatalf("round %d: %d and %d events wait for a second", i, w.waiting("a"), w.waiting("b"))
				}
				time.Sleep(time.Millisecond)
			}
			if i > 0 && time.Since(began) > time.Millisecond {
				t.Fatalf("round %d: published after %v, although nothing of their partitions is in flight", i, time.Since(began))
			}
			time.Sleep(100 * time.Millisecond)
			w.add(3, "a", "b", "c")
		}
		if w.waiting("c") != 3600 {
			t.Errorf("%d events of c wait, want all 3600", w.waiting("c"))
		}
		w.set(false, "c")
		back := time.Now()
		for w.waiting("c") > 0 && time.Since(back) < time.Minute {
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(back); d > 2*time.Second {
			t.Errorf("the partition has caught up %v after its leader is back", d)
		}
		stop()
		if repeats := w.check(); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
	})
}

// While a partition catches up, new events of the others do not wait for its
// backlog, and its own do.
func TestABacklogDoesNotDelayNewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.partitions = 2
		w.set(true, "b")
		w.add(1, "a")
		w.add(20_000, "b")
		stop := running(w)
		time.Sleep(10 * time.Second)
		batches, worst := 0, 0
		w.mu.Lock()
		w.onProduce = func(_ int, recs []event.Record, store func(...int)) error {
			if string(recs[0].Key) == "a" {
				worst, batches = max(worst, batches), 0
			} else {
				batches++
			}
			for i := range recs {
				store(i)
			}
			if string(recs[0].Key) == "b" && len(w.rows) < 20_100 {
				for _, task := range []string{"a", "b"} {
					n := len(w.rows) + 1
					w.rows = append(w.rows, outbox.Row{ID: int64(n), TaskID: task, Event: fmt.Appendf(nil, "%s event %d", task, n)})
				}
			}
			return nil
		}
		w.mu.Unlock()
		w.set(false, "b")
		time.Sleep(20 * time.Second)
		stop()
		w.check()
		if worst > 2 {
			t.Errorf("an event waited for %d batches of the backlog", worst)
		}
	})
}

// With another number of partitions a task may belong to another one. Its events
// in the old one come first all the same.
func TestNewPartitionsDoNotChangeTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.partitions = 2
		w.set(true, "d")
		w.add(2, "a", "b", "c", "d") // b and d are in one partition
		stop := running(w)
		time.Sleep(time.Second)
		w.mu.Lock()
		w.partitions = 4 // and now in two
		w.mu.Unlock()
		w.add(2, "a", "b", "c", "d")
		time.Sleep(20 * time.Second)
		w.set(false, "d")
		time.Sleep(20 * time.Second)
		w.add(2, "a", "b", "c", "d")
		time.Sleep(time.Second)
		stop()
		if repeats := w.check(); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
	})
}

func TestFlushPublishesWhatCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.partitions = 2
		w.set(true, "b")
		w.add(2500, "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		if err := relay(w, outbox.Config{}).Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if a, b := w.waiting("a"), w.waiting("b"); a != 0 || b != 2500 {
			t.Errorf("%d events of the living partition and %d of the other wait, want 0 and 2500", a, b)
		}
	})
}

// TestRandomFaults: whatever fails, and whether it happened nevertheless, in the
// end every event is in the topic, in order per task, and marked.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			r, faults := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2)) // faults is guarded by w.mu
			w := newWorld(t)
			w.partitions = 1 + r.IntN(4)
			healthy := false
			w.onProduce = func(_ int, recs []event.Record, store func(...int)) error {
				if healthy || faults.IntN(3) > 0 {
					for i := range recs {
						store(i)
					}
					return nil
				}
				// The first n of each task are stored; how many are known to be, is another question.
				n := faults.IntN(len(recs) + 1)
				acked := make([]bool, len(recs))
				known := faults.IntN(n + 1)
				for i := range n {
					store(i)
					acked[i] = i < known
				}
				if faults.IntN(2) == 0 {
					return errBroken
				}
				return &outbox.PartialError{Acked: acked, Err: errBroken}
			}
			w.onMark = func(_ int, mark func()) error {
				fails, happens := !healthy && faults.IntN(4) == 0, faults.IntN(2) == 0
				if !fails || happens {
					mark()
				}
				if fails {
					return errBroken
				}
				return nil
			}
			w.onRead = func() error {
				if !healthy && faults.IntN(8) == 0 {
					return errBroken
				}
				return nil
			}
			stop := running(w)
			tasks := []string{"a", "b", "c", "d", "e"}
			for range 40 {
				task := tasks[r.IntN(len(tasks))]
				switch r.IntN(6) {
				case 0:
					w.set(r.IntN(2) == 0, task)
				case 1:
					w.mu.Lock()
					w.partitions += r.IntN(2)
					w.mu.Unlock()
				case 2:
					stop()
					stop = running(w)
				default:
					w.add(1+r.IntN(700), task)
				}
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			}
			for _, task := range tasks {
				w.set(false, task)
			}
			w.mu.Lock()
			healthy = true
			w.mu.Unlock()
			time.Sleep(time.Minute)
			stop()
			w.check()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// hide makes the next n rows of a task appear when the returned function is called.
func (w *world) hide(n int, task string) (appear func()) {
	w.mu.Lock()
	if w.late == nil {
		w.late = map[int64]bool{}
	}
	var ids []int64
	for i := range n {
		ids = append(ids, int64(len(w.rows)+1+i))
		w.late[ids[i]] = true
	}
	w.mu.Unlock()
	w.add(n, task)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range ids {
			delete(w.late, id)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Transactions that commit at the same time show their rows in another order than
// that of their ids. Such a row is published at once, even while a partition stands
// still with a long backlog, so that the relay never begins from the start.
func TestARowThatAppearsLateIsNotSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.partitions = 3
		w.set(true, "c")
		w.add(2500, "c")
		stop := running(w)
		for i := range 20 {
			lateA, lateC := w.hide(2, "a"), w.hide(1, "f") // f is in c's partition
			w.add(1+i*100, "b", "c")
			time.Sleep(time.Second)
			if n := w.waiting("b"); n != 0 {
				t.Fatalf("round %d: %d events of b wait behind a row that has not appeared", i, n)
			}
			lateA()
			lateC()
			time.Sleep(10 * time.Millisecond)
			if n := w.waiting("a"); n != 0 {
				t.Fatalf("round %d: %d late events wait", i, n)
			}
		}
		w.set(false, "c")
		time.Sleep(time.Minute)
		stop()
		if repeats := w.check(); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
	})
}

// Whatever appears late and whichever partitions stand still: each event once and
// in order per task, and none waits that could go.
func TestLateRowsAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t)
			w.partitions = 1 + rnd.IntN(4)
			stop := running(w)
			tasks := []string{"a", "b", "c", "d", "e", "f"}
			hidden := map[string]func(){} // a task with a hidden row is locked: it gets no other
			for range 60 {
				id := tasks[rnd.IntN(len(tasks))]
				appear := hidden[id]
				switch delete(hidden, id); {
				case appear != nil:
					appear()
				case rnd.IntN(3) == 0:
					hidden[id] = w.hide(1+rnd.IntN(3), id)
				case rnd.IntN(4) == 0:
					w.set(rnd.IntN(2) == 0, id)
				default:
					w.add(1+rnd.IntN(5), id)
				}
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
			}
			for _, appear := range hidden {
				appear()
			}
			for _, id := range tasks {
				w.set(false, id)
			}
			time.Sleep(20 * time.Second)
			stop()
			if repeats := w.check(); repeats != 0 {
				t.Errorf("seed %d: %d repeats", seed, repeats)
			}
		})
	}
}
