package kafka_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

// swallow is a network in which some brokers accept connections and requests,
// and never answer.
type swallow struct {
	dial kafka.DialFunc

	mu     sync.Mutex
	silent map[string]bool // by port
	dials  int             // to silent ones
}

func (s *swallow) set(silent bool, port string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent[port] = silent
}

func (s *swallow) isSilent(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, port, _ := net.SplitHostPort(address)
	return s.silent[port]
}

func (s *swallow) dialed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

func (s *swallow) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s.isSilent(address) {
		s.mu.Lock()
		s.dials++
		s.mu.Unlock()
	}
	c, err := s.dial(ctx, network, address)
	return swallowed{c, s, address}, err
}

type swallowed struct {
	net.Conn
	s       *swallow
	address string
}

func (c swallowed) Write(b []byte) (int, error) {
	if c.s.isSilent(c.address) {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// trio is a world of three brokers; partition p is led by broker p. All of them
// are bootstrap servers.
func trio(t *testing.T) (*world, *swallow, *kafkago.Client) {
	w := newWorld(t, 3, kfake.NumBrokers(3), kfake.Ports(9092, 9093, 9094))
	for p := range int32(3) {
		if err := w.cluster.MoveTopicPartition(topic, p, p); err != nil {
			t.Fatal(err)
		}
	}
	s := &swallow{dial: w.net.DialContext, silent: map[string]bool{}}
	return w, s, connect(t, kafka.Config{Brokers: w.cluster.ListenAddrs(), ClientID: "test", Dial: s.Dial})
}

// to makes a record for a partition.
func (s stream) to(partition int) event.Record {
	for i := 0; ; i++ {
		key := strings.Repeat("k", i+1)
		if kafka.PartitionOf([]byte(key), 3) == partition {
			return s.next(key)
		}
	}
}

// A leader that hangs holds a request for seconds. When its partition has
// moved, the new leader has the records within two.
func TestALeaderThatHangsIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, network, client := trio(t)
		s, p := stream{}, kafka.NewProducer(client, slog.New(slog.DiscardHandler))
		store := func(r event.Record) {
			if err := p.Produce(within(t, time.Minute), topic, []event.Record{r}); err != nil {
				t.Error(err)
			}
		}
		produce := func(partition int) time.Duration {
			began := time.Now()
			store(s.to(partition))
			return time.Since(began)
		}
		for partition := range 3 {
			produce(partition)
		}
		network.set(true, "9094")
		var worst time.Duration
		var all sync.WaitGroup
		waits := s.to(2)
		all.Go(func() { store(waits) })
		for range 40 { // 8 s
			worst = max(worst, produce(0), produce(1))
			time.Sleep(200 * time.Millisecond)
		}
		if worst > 3*time.Second {
			t.Errorf("a record for a living broker took %v", worst)
		}
		if err := w.cluster.MoveTopicPartition(topic, 2, 0); err != nil {
			t.Fatal(err)
		}
		moved := time.Now()
		all.Wait()
		if d := time.Since(moved); d > 2*time.Second {
			t.Errorf("the record was stored %v after the move, want at most 2 s", d)
		}
		network.set(false, "9094")
		s.check(t, w.stored(), false)
	})
}

// A request that may take long is left alone as long as the broker answers
// others, and fails soon when it does not.
func TestOnlySilenceEndsALongRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, network, client := trio(t)
		poll := func(wait time.Duration) (time.Duration, error) {
			began := time.Now()
			_, err := client.Fetch(within(t, time.Minute), &kafkago.FetchRequest{Topic: topic, Partition: 2, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: wait})
			return time.Since(began), err
		}
		if d, err := poll(20 * time.Second); err != nil || d < 20*time.Second {
			t.Errorf("a long poll ended after %v with %v", d, err)
		}
		network.set(true, "9094")
		if d, err := poll(20 * time.Second); err == nil || d > 4*time.Second || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("a long poll of a silent broker ended after %v with %v", d, err)
		}
		before := network.dialed()
		var unreachable *kafka.UnreachableError
		if d, err := poll(time.Second); !errors.As(err, &unreachable) || d > 0 || network.dialed() != before {
			t.Errorf("the next one ended after %v with %v, want an UnreachableError at once", d, err)
		}
		network.set(false, "9094")
		time.Sleep(6 * time.Second) // the longest question and the pause after it
		if _, err := poll(time.Second); err != nil {
			t.Errorf("when the broker answers again: %v", err)
		}
	})
}

// A dead bootstrap server costs its time once, not at every connection.
func TestADeadBootstrapServerCostsItsTimeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, network, client := trio(t)
		network.set(true, "9092")
		network.set(true, "9093")
		began := time.Now()
		for kafka.Reachable(within(t, time.Minute), client) != nil {
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(began); d > 8*time.Second {
			t.Errorf("reached the living one after %v", d)
		}
		began = time.Now()
		for range 50 {
			kafka.Forget(client)
			if err := kafka.Reachable(within(t, time.Minute), client); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("50 new connections took %v", d)
		}
	})
}

// A network that needs four seconds for a connection is slow, not dead.
func TestASlowNetworkIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		client := connect(t, kafka.Config{Brokers: []string{w.broker.Addr()}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			select {
			case <-time.After(4 * time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return w.net.DialContext(ctx, network, address)
		}})
		began := time.Now()
		for kafka.Reachable(within(t, time.Minute), client) != nil {
			if time.Since(began) > time.Minute {
				t.Fatal("not reached within a minute")
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}
