package group_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/kafkatest"
)

// joinSticky starts a member with a worker, in real time.
func joinSticky(t *testing.T, c *kafkatest.Cluster, topic, instance string, b *bench, drain time.Duration) (*live, *worker) {
	t.Helper()
	k := b.worker(drain)
	return join(t, c.Brokers, topic, instance, func(l *live) {
		l.cfg.Sticky, l.cfg.RebalanceTimeout, l.handler = true, 15*time.Second, k.handle
	}), k
}

// TestKafkaSticky: a rebalance interrupts only what moves, whether members join, leave, die
// or come back.
func TestKafkaSticky(t *testing.T) {
	for _, static := range []bool{false, true} {
		t.Run(fmt.Sprint("static ", static), func(t *testing.T) {
			c := kafkatest.Start(t)
			topic, b := c.Topic(t, 6), newBench(t)
			instance := func(i int) string {
				if static {
					return fmt.Sprint("bridge-", i)
				}
				return ""
			}
			l0, k0 := joinSticky(t, c, topic, instance(0), b, time.Second)
			settled(t, 6, k0)
			l1, k1 := joinSticky(t, c, topic, instance(1), b, 0)
			settled(t, 6, k0, k1)
			k0.stayed(k0.has())
			l2, k2 := joinSticky(t, c, topic, instance(2), b, 0)
			settled(t, 6, k0, k1, k2)
			first, second := k0.has(), k1.has()
			k0.stayed(first)
			k1.stayed(second)

			began := time.Now()
			k2.die()
			l2.kill()
			if static { // it comes back at once, and the others notice nothing
				l2, k2 = joinSticky(t, c, topic, instance(2), b, 0)
				settled(t, 6, k0, k1, k2)
				if took := time.Since(began); kafkatest.IsReal() && took > time.Second {
					t.Errorf("back after %v, want at most 1s", took)
				}
				l2.stop()
			}
			settled(t, 6, k0, k1)
			k0.stayed(first)
			k1.stayed(second)
			l0.stop() // the leader
			settled(t, 6, k1)
			k1.stayed(second)
			l1.stop()
		})
	}
}

// TestKafkaStickyJava: a Java consumer that joins and leaves makes the group go over to
// range and back, and no partition has two owners meanwhile.
func TestKafkaStickyJava(t *testing.T) {
	if !kafkatest.IsReal() {
		return // TestStickyWithRange uses another consumer
	}
	r := kafkatest.StartReal(t)
	c := &kafkatest.Cluster{Brokers: r.Brokers}
	topic, b := c.Topic(t, 6), newBench(t)
	b.foreign = true // the Java consumer commits what it has when it leaves
	l0, k0 := joinSticky(t, c, topic, "", b, time.Second)
	l1, k1 := joinSticky(t, c, topic, "", b, 0)
	settled(t, 6, k0, k1)
	java := make(chan error, 1)
	go func() {
		_, err := r.Tool(t.Context(), "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", r.Brokers[0],
			"--topic", topic, "--group", "g-"+topic, "--timeout-ms", "10000")
		java <- err
	}()
	settled(t, 4, k0, k1) // it has two
	settled(t, 6, k0, k1) // it leaves after its timeout
	<-java
	kept := k0.has()
	turns := k0.begun(kept)
	l2, k2 := joinSticky(t, c, topic, "", b, 0)
	settled(t, 6, k0, k1, k2)
	if has := k0.has(); !slices.Equal(k0.begun(has), turns[:len(has)]) {
		t.Errorf("partitions %v were begun %v times, were %v", has, k0.begun(has), turns)
	}
	if b.lost > 0 {
		t.Errorf("%d turns ended without a commit", b.lost)
	}
	l2.stop()
	l1.stop()
	l0.stop()
}

func (k *worker) begun(ids []int) (turns []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		turns = append(turns, k.turns[id])
	}
	return turns
}

// TestKafkaStickyChurn is TestKafkaChurn for sticky members.
func TestKafkaStickyChurn(t *testing.T) {
	lasts := 10 * time.Second
	if kafkatest.IsReal() {
		lasts = time.Minute
	}
	c := kafkatest.StartOwn(t)
	topic, b, r := c.Topic(t, 7), newBench(t), rand.New(rand.NewPCG(rand.Uint64(), 2))
	type both struct {
		*live
		k *worker
	}
	var running, gone []both
	n := 0
	add := func() {
		n++
		instance := ""
		if r.IntN(2) == 0 {
			instance = fmt.Sprint("bridge-", n)
		}
		l, k := joinSticky(t, c, topic, instance, b, time.Duration(r.IntN(2000))*time.Millisecond)
		running = append(running, both{l, k})
	}
	take := func() both {
		i := r.IntN(len(running))
		m := running[i]
		running = slices.Delete(running, i, i+1)
		gone = append(gone, m)
		return m
	}
	add()
	add()
	half, end := time.Now().Add(lasts/2), time.Now().Add(lasts)
	for killed := false; time.Now().Before(end); {
		if !killed && time.Now().After(half) {
			killed = true
			if err := errors.Join(c.Kill(), c.Restart()); err != nil {
				t.Fatal(err)
			}
		}
		switch d := r.IntN(16); {
		case d < 4 && len(running) < 5:
			add()
		case d < 6 && len(running) > 1:
			take().cancel()
		case d < 7 && len(running) > 1:
			m := take()
			m.k.die()
			m.kill()
		case d < 8:
			running[r.IntN(len(running))].cut(time.Duration(r.IntN(8000)) * time.Millisecond)
		default:
			<-time.After(time.Duration(r.IntN(2000)) * time.Millisecond)
		}
	}
	var workers []*worker
	for _, m := range running {
		workers = append(workers, m.k)
	}
	settled(t, 7, workers...)
	for _, m := range running {
		m.stop()
	}
	for _, m := range gone {
		if err := <-m.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Logf("%d members, %d turns without a commit", n, b.lost)
}
