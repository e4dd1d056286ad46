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

// TestQuorum: with one node of three down the others serve everything, and it
// catches up when it is back.
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
	produce := func() {
		t.Helper()
		if err := p.Produce(within(t, time.Minute), topic, []event.Record{{Key: []byte("k"), Value: []byte("v")}}); err != nil {
			t.Fatal(err)
		}
	}
	produce()
	if err := q.Nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	produce()
	if err := q.Start(t.Context(), q.Nodes[0]); err != nil {
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
