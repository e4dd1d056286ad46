// Package kafkatest provides Kafka to tests: the embedded broker, or with
// KAFKA_REAL=1 a real Apache Kafka in its own process, so that each test runs on
// both. A Kafka that cannot be started fails the test; it is never skipped.
package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// IsReal reports whether Start starts a real Kafka.
func IsReal() bool { return os.Getenv("KAFKA_REAL") == "1" }

// Cluster is a running Kafka.
type Cluster struct {
	Brokers []string
	// Embedded is the broker for fault injection; nil when Kafka is real.
	Embedded *embedkafka.Broker

	real *Real
	cfg  embedkafka.Config // of the embedded broker
	own  bool
}

// shared is the real Kafka of this test process. It is a package variable because
// tests have no other common owner; the broker ends with the process.
var shared struct {
	sync.Once
	real *Real
	err  error
}

// Start starts a Kafka that must not be stopped. An embedded one belongs to the
// test; a real one is shared by the process, so use Topic for names.
func Start(t testing.TB) *Cluster {
	t.Helper()
	if !IsReal() {
		return embedded(t, embedkafka.Config{})
	}
	shared.Do(func() {
		shared.real, shared.err = openShared(context.WithoutCancel(t.Context()))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &Cluster{Brokers: shared.real.Brokers, real: shared.real}
}

func openShared(ctx context.Context) (*Real, error) {
	dir, err := os.MkdirTemp("", "kafkatest-*")
	if err != nil {
		return nil, err
	}
	r, err := OpenReal(ctx, Options{Dir: dir, Scratch: true, Progress: os.Stderr})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

// StartOwn starts a Kafka for this test alone that can be stopped, killed and
// restarted without losing its data.
func StartOwn(t testing.TB) *Cluster {
	t.Helper()
	if IsReal() {
		r := StartReal(t)
		return &Cluster{Brokers: r.Brokers, real: r, own: true}
	}
	c := embedded(t, embedkafka.Config{DataDir: t.TempDir()})
	c.own = true
	return c
}

// StartReal starts an Apache Kafka for this test alone, whatever KAFKA_REAL is.
// Properties are lines for server.properties.
func StartReal(t testing.TB, properties ...string) *Real {
	t.Helper()
	// Not t.TempDir, whose removal fails while a JVM still writes.
	dir, err := os.MkdirTemp("", "kafkatest-*")
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReal(t.Context(), Options{Dir: dir, Scratch: true, Properties: properties, Progress: os.Stderr})
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last lines of the broker's log:\n%s", r.lastLines())
		}
		if err := errors.Join(r.Kill(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return r
}

func embedded(t testing.TB, cfg embedkafka.Config) *Cluster {
	t.Helper()
	b, err := embedkafka.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr = b.Addr()
	c := &Cluster{Brokers: []string{b.Addr()}, Embedded: b, cfg: cfg}
	t.Cleanup(func() {
		if err := c.Embedded.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var errShared = errors.New("this Kafka is shared with other tests: use StartOwn")

// Stop shuts the broker down; its data stay.
func (c *Cluster) Stop() error {
	switch {
	case !c.own:
		return errShared
	case c.real != nil:
		return c.real.Stop()
	}
	return c.Embedded.Close()
}

// Kill ends a real broker with SIGKILL. The embedded one cannot crash without
// this process, so it is shut down.
func (c *Cluster) Kill() error {
	if c.own && c.real != nil {
		return c.real.Kill()
	}
	return c.Stop()
}

// Restart starts the broker again with the same data and address; a running one
// is stopped first.
func (c *Cluster) Restart() error {
	if err := c.Stop(); err != nil {
		return err
	}
	if c.real != nil {
		return c.real.Restart()
	}
	b, err := embedkafka.Start(c.cfg)
	if err != nil {
		return err
	}
	c.Embedded = b
	return nil
}

// Config returns the settings of a client of the cluster.
func (c *Cluster) Config() kafka.Config {
	return kafka.Config{Brokers: c.Brokers, ClientID: "test"}
}

// Client returns a client that is closed at the end of the test.
func (c *Cluster) Client(t testing.TB) *kafkago.Client {
	t.Helper()
	transport, err := kafka.NewTransport(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	return kafka.NewClient(c.Config(), transport)
}

// Topic creates a topic with a unique name and returns the name. Its partitions have
// leaders that know it: until then brokers refuse requests for them.
func (c *Cluster) Topic(t testing.TB, partitions int) string {
	t.Helper()
	topic := fmt.Sprintf("%.100s-%08x", legal(t.Name()), rand.Uint32())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := c.Client(t)
	if err := kafka.EnsureTopic(ctx, client, topic, partitions, true); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := kafka.TopicBounds(ctx, client, topic, partitions)
		if err == nil {
			return topic
		}
		if retry.Pause(ctx, 10*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
}

// legal replaces the characters that a topic name cannot have.
func legal(name string) string {
	return strings.Map(func(r rune) rune {
		if kafka.CheckTopic("x"+string(r)) != nil {
			return '-'
		}
		return r
	}, name)
}
