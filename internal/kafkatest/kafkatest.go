// Package kafkatest gives tests a Kafka: the embedded broker, or with
// KAFKA_REAL=1 a real Apache Kafka in a process of its own, so that each test
// runs on both. What it cannot provide fails the test; it never skips one.
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
)

// IsReal says which of the two Start gives.
func IsReal() bool { return os.Getenv("KAFKA_REAL") == "1" }

// Cluster is a Kafka that answers.
type Cluster struct {
	Brokers []string
	// Embedded is the broker for fault injection; nil when Kafka is real.
	Embedded *embedkafka.Broker

	real *Real
	cfg  embedkafka.Config // of the embedded broker
	own  bool
}

// shared is the real Kafka of this test process. A package variable, because
// tests have no other common owner; the broker ends with the process.
var shared struct {
	sync.Once
	real *Real
	err  error
}

// Start gives a Kafka that must not be stopped. The embedded one is the test's
// own; a real one is started once per process, so use Topic for names.
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

// StartOwn gives a Kafka for this test alone that can be stopped, killed and
// restarted; its data survive that.
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

// StartReal gives an Apache Kafka for this test alone, whatever KAFKA_REAL
// says. Properties are lines for server.properties.
func StartReal(t testing.TB, properties ...string) *Real {
	t.Helper()
	// Not t.TempDir: its removal fails the test while a JVM still writes.
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

var errShared = errors.New("this Kafka is shared: use StartOwn")

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

// Kill ends a real broker as a crash does. The embedded one cannot crash
// without this process: it is shut down.
func (c *Cluster) Kill() error {
	if c.own && c.real != nil {
		return c.real.Kill()
	}
	return c.Stop()
}

// Restart starts the broker again with its data at its address; one that runs
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

// Config are the settings of a client of the cluster.
func (c *Cluster) Config() kafka.Config {
	return kafka.Config{Brokers: c.Brokers, ClientID: "test"}
}

// Client is a client that the end of the test closes.
func (c *Cluster) Client(t testing.TB) *kafkago.Client {
	t.Helper()
	transport, err := kafka.NewTransport(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return kafka.NewClient(c.Config(), transport)
}

// Topic creates a topic that no other test has and returns its name.
func (c *Cluster) Topic(t testing.TB, partitions int) string {
	t.Helper()
	topic := fmt.Sprintf("%.100s-%08x", legal(t.Name()), rand.Uint32())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := kafka.EnsureTopic(ctx, c.Client(t), topic, partitions, true); err != nil {
		t.Fatal(err)
	}
	return topic
}

// legal replaces what the name of a topic cannot have.
func legal(name string) string {
	return strings.Map(func(r rune) rune {
		if kafka.CheckTopic("x"+string(r)) != nil {
			return '-'
		}
		return r
	}, name)
}
