package kafka_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "events"

// world is a broker, a producer and the network between them, all within a
// synctest bubble, where minutes of waiting cost no real time.
type world struct {
	t        *testing.T
	net      kfake.VirtualNetwork
	broker   *embedkafka.Broker
	cluster  *kfake.Cluster
	wire     *wire
	client   *kafkago.Client
	producer *kafka.Producer
	logs     *bytes.Buffer // guarded by slog's handler; read it after Produce
}

func newWorld(t *testing.T, partitions int, opts ...kfake.Opt) *world {
	t.Helper()
	w := &world{t: t, logs: new(bytes.Buffer)}
	var err error
	w.broker, err = embedkafka.Start(embedkafka.Config{Listen: w.net.Listen, Addr: "127.0.0.1:9092", Topics: map[string]int{topic: partitions}, Options: opts})
	if err != nil {
		t.Fatal(err)
	}
	w.cluster = w.broker.Cluster()
	w.wire = &wire{dial: w.net.DialContext}
	cfg := kafka.Config{Brokers: []string{w.broker.Addr()}, ClientID: "test", Dial: w.wire.Dial}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.client = kafka.NewClient(cfg, transport)
	w.producer = kafka.NewProducer(w.client, slog.New(slog.NewTextHandler(w.logs, nil)))
	t.Cleanup(func() {
		transport.Close()
		if err := w.broker.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) produce(d time.Duration, recs []event.Record) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	return w.producer.Produce(ctx, topic, recs)
}

func (w *world) mustProduce(recs []event.Record) {
	w.t.Helper()
	if err := w.produce(time.Hour, recs); err != nil {
		w.t.Fatal(err)
	}
}

// stored returns what another client reads from the whole topic.
func (w *world) stored() []*kgo.Record {
	w.t.Helper()
	return read(w.t, []string{w.broker.Addr()}, topic, kgo.Dialer(w.net.DialContext))
}

// read returns every record of a topic, one partition after the other.
func read(t *testing.T, brokers []string, topic string, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic),
		kgo.MetadataMinAge(10*time.Millisecond), // the default waits 5 s before it looks for the topic
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// A last record in each partition, written now, marks its end.
	var ends []*kgo.Record
	for p := range int32(partitionsOf(t, ctx, cl, topic)) {
		ends = append(ends, &kgo.Record{Topic: topic, Partition: p, Value: []byte("end"), Headers: []kgo.RecordHeader{{Key: "end"}}})
	}
	if err := cl.ProduceSync(ctx, ends...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	byPartition := make([][]*kgo.Record, len(ends))
	for left := len(ends); left > 0; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if len(r.Headers) > 0 && r.Headers[0].Key == "end" {
				if r.Offset == ends[r.Partition].Offset {
					left--
				}
				return
			}
			byPartition[r.Partition] = append(byPartition[r.Partition], r)
		})
	}
	var all []*kgo.Record
	for _, p := range byPartition {
		all = append(all, p...)
	}
	return all
}

func partitionsOf(t *testing.T, ctx context.Context, cl *kgo.Client, topic string) int {
	t.Helper()
	resp, err := metadata(topic).RequestWith(ctx, cl)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) == 0 {
		t.Fatalf("metadata of %s: %+v, %v", topic, resp, err)
	}
	return len(resp.Topics[0].Partitions)
}

// stream makes records whose value is their key and number, so that check can judge a log.
type stream map[string]int

func (s stream) next(key string) event.Record {
	s[key]++
	return event.Record{Key: []byte(key), Value: fmt.Appendf(nil, "%s/%d", key, s[key]), Headers: []event.Header{{Key: "h", Value: []byte("x")}}}
}

func (s stream) take(n int) []event.Record {
	out := make([]event.Record, n)
	for i := range out {
		out[i] = s.next(fmt.Sprintf("key-%d", i%7))
	}
	return out
}

// check compares a log with the records that s has made. Per key, first
// occurrences must be 1, 2, 3, ... to the end; second ones are allowed only if
// repeats is set.
func (s stream) check(t *testing.T, log []*kgo.Record, repeats bool) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range log {
		key, number, _ := strings.Cut(string(r.Value), "/")
		var n int
		if _, err := fmt.Sscan(number, &n); err != nil || key != string(r.Key) {
			t.Fatalf("unexpected record %q = %q", r.Key, r.Value)
		}
		switch {
		case n == seen[key]+1:
			seen[key] = n
		case n > seen[key]:
			t.Errorf("key %s: record %d follows record %d", key, n, seen[key])
		case !repeats:
			t.Errorf("key %s: record %d is stored again after record %d", key, n, seen[key])
		}
	}
	for key, n := range s {
		if seen[key] != n {
			t.Errorf("key %s: %d of %d records are stored", key, seen[key], n)
		}
	}
}

// fate is what happens to a request on its way to the broker.
type fate int

const (
	pass   fate = iota
	cut         // the connection breaks before the broker reads it
	silent      // the broker handles it, but the connection breaks before the answer
	hold        // it waits until release
)

// wire is a network that fails as a test decides.
type wire struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu       sync.Mutex
	decide   func() fate   // for each produce request; nil passes
	released chan struct{} // closed by release
}

func (w *wire) on(decide func() fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decide, w.released = decide, make(chan struct{})
}

// once applies the fates to the next produce requests, one each.
func (w *wire) once(fates ...fate) {
	w.on(func() fate {
		if len(fates) == 0 {
			return pass
		}
		f := fates[0]
		fates = fates[1:]
		return f
	})
}

// release sends held requests on to the broker.
func (w *wire) release() { close(w.released) }

func (w *wire) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: c, wire: w}, nil
}

// wireConn is used by one goroutine at a time, which alternates requests and answers.
type wireConn struct {
	net.Conn
	wire *wire
	left int // bytes of the current request not written yet
	fate fate
}

func (c *wireConn) Write(b []byte) (int, error) {
	if c.left == 0 {
		c.left = 4 + int(binary.BigEndian.Uint32(b))
		c.fate = pass
		if key := binary.BigEndian.Uint16(b[4:]); key == 0 {
			c.wire.mu.Lock()
			if c.wire.decide != nil {
				c.fate = c.wire.decide()
			}
			released := c.wire.released
			c.wire.mu.Unlock()
			switch c.fate {
			case cut:
				c.Close()
				return 0, io.ErrClosedPipe
			case hold:
				<-released
				_ = c.SetDeadline(time.Time{}) // the old one has passed during the wait
			}
		}
	}
	n, err := c.Conn.Write(b)
	c.left -= n
	return n, err
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.fate == silent && err == nil {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
