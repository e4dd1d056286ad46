package kafkatest_test

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// TestQuorum: with one node of three down the others serve everything, with two
// nothing is acknowledged, and what was acknowledged is there afterwards.
func TestQuorum(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	began := time.Now()
	q := kafkatest.StartQuorum(t)
	t.Logf("started within %v", time.Since(began).Round(time.Millisecond))
	c := q.Cluster()
	topic := c.Topic(t, 3)
	p := kafka.NewProducer(c.Client(t), slog.New(slog.DiscardHandler))
	produce := func(d time.Duration) error {
		return p.Produce(within(t, d), topic, []event.Record{{Key: []byte("k"), Value: []byte("v")}})
	}
	if err := produce(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := q.Nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := produce(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := q.Nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := produce(5 * time.Second); err == nil {
		t.Error("a record was acknowledged by one node of three")
	}
	if err := q.Start(t.Context(), q.Nodes[0], q.Nodes[1]); err != nil {
		t.Fatal(err)
	}
	if err := produce(time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, node := range q.Nodes {
		await(t, "every node knows that all replicas are in sync", func() bool {
			known, err := node.Topic(t.Context(), topic)
			return err == nil && known.Complete && !slices.Contains(known.Leaders, -1)
		})
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for ctx := within(t, time.Minute); !holds(); {
		if ctx.Err() != nil {
			t.Fatalf("waited a minute until %s", what)
		}
		time.Sleep(10 * time.Millisecond) // polls other processes, until a deadline
	}
}
