package kafka_test

import (
	"context"
	"net"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// closing tells when a connection is closed.
type closing struct {
	net.Conn
	closed chan<- struct{}
}

func (c closing) Close() error {
	c.closed <- struct{}{}
	return c.Conn.Close()
}

// A broker may take its time with an answer that nobody waits for any more.
func TestCloseDoesNotWaitForTheBroker(t *testing.T) {
	cluster := kafkatest.Start(t)
	cfg := cluster.Config()
	opened, closed := make(chan struct{}, 100), make(chan struct{}, 200)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		opened <- struct{}{}
		return closing{conn, closed}, err
	}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := kafka.NewClient(cfg, transport)
	topic := cluster.Topic(t, 1)
	if err := kafka.EnsureTopic(t.Context(), client, topic, 1, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*time.Second, cancel)
	if _, err := client.Fetch(ctx, &kafkago.FetchRequest{Topic: topic, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 20 * time.Second}); err == nil {
		t.Fatal("an empty topic was fetched")
	}
	transport.Close()
	deadline := time.After(5 * time.Second)
	for range len(opened) {
		select {
		case <-closed:
		case <-deadline:
			t.Fatal("a connection is open although its transport is closed")
		}
	}
}
