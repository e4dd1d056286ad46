package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// The tests of this file run on the embedded broker and on a real Kafka.

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newProducer(t testing.TB, c *kafkatest.Cluster) *kafka.Producer {
	return kafka.NewProducer(c.Client(t), slog.New(slog.DiscardHandler))
}

func TestOrderPerKey(t *testing.T) {
	c := kafkatest.Start(t)
	for _, partitions := range []int{1, 4} {
		topic, p, s := c.Topic(t, partitions), newProducer(t, c), stream{}
		for range 20 {
			if err := p.Produce(within(t, time.Minute), topic, s.take(500)); err != nil {
				t.Fatal(err)
			}
		}
		s.check(t, read(t, c.Brokers, topic), false)
	}
}

func TestBytesArriveAsTheyWere(t *testing.T) {
	c := kafkatest.Start(t)
	topic, p := c.Topic(t, 1), newProducer(t, c)
	recs := []event.Record{
		{Key: nil, Value: []byte("no key")},
		{Key: []byte{}, Value: []byte("empty key")},
		{Key: []byte("tombstone"), Value: nil},
		{Key: []byte("empty"), Value: []byte{}},
		{Key: []byte("headers"), Value: []byte("v"), Headers: []event.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "ä", Value: []byte{}}, {Key: "", Value: []byte{0, 255}}}},
		{Key: bytes.Repeat([]byte("k"), 300), Value: bytes.Repeat([]byte{0, 1, 2, 255}, 40_000)},
	}
	for n := range 140 { // sizes on both sides of the steps of a varint
		recs = append(recs, event.Record{Key: []byte("size"), Value: bytes.Repeat([]byte("s"), n), Headers: []event.Header{{Key: "n", Value: bytes.Repeat([]byte("h"), n)}}})
	}
	before := time.Now().Truncate(time.Millisecond)
	if err := p.Produce(within(t, time.Minute), topic, recs); err != nil {
		t.Fatal(err)
	}
	var got []event.Record
	for _, r := range read(t, c.Brokers, topic) {
		if r.Timestamp.Before(before) || r.Timestamp.After(time.Now()) {
			t.Errorf("record has timestamp %v, want the time of the call", r.Timestamp)
		}
		rec := event.Record{Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			rec.Headers = append(rec.Headers, event.Header{Key: h.Key, Value: h.Value})
		}
		got = append(got, rec)
	}
	if diff := cmp.Diff(recs, got); diff != "" {
		t.Errorf("(-sent +stored):\n%s", diff)
	}
}

// TestKeysArePlacedAsOthersPlaceThem: this producer, franz-go's and the
// library's agree; both of those agree with Java's.
func TestKeysArePlacedAsOthersPlaceThem(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("any")
	library := kafkago.Murmur2Balancer{Consistent: true}
	for n := 1; n <= 17; n++ {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		for i := range 500 {
			key := bytes.Repeat([]byte{byte(i), byte(i >> 3), 'k'}, 20)[:i%41]
			got := kafka.PartitionOf(key, n)
			if want := theirs.Partition(&kgo.Record{Key: key}, n); got != want {
				t.Fatalf("key %x with %d partitions: placed in %d, franz-go places it in %d", key, n, got, want)
			}
			if want := library.Balance(kafkago.Message{Key: key}, all...); got != want {
				t.Fatalf("key %x with %d partitions: placed in %d, kafka-go places it in %d", key, n, got, want)
			}
		}
	}
}

// TestStreamOutlivesItsBroker: while records flow, the broker is stopped and
// killed; each record is stored once, in order.
func TestStreamOutlivesItsBroker(t *testing.T) {
	c := kafkatest.StartOwn(t)
	topic, p, s := c.Topic(t, 2), newProducer(t, c), stream{}
	if err := p.Produce(within(t, time.Minute), topic, s.take(10)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var flow sync.WaitGroup
	flow.Go(func() {
		var waiting []event.Record
		for done := false; !done || len(waiting) > 0; {
			select {
			case <-stop:
				done = true
			default:
				waiting = append(waiting, s.take(10)...)
			}
			// Like the outbox, whose timeout is shorter than a restart.
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			waiting = unpublished(t, waiting, p.Produce(ctx, topic, waiting))
			cancel()
			if t.Context().Err() != nil {
				return
			}
		}
	})
	for _, end := range []func() error{c.Stop, c.Kill} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := c.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	flow.Wait()
	s.check(t, read(t, c.Brokers, topic), false)
}

// TestCutShortOnEitherBroker: answers are lost until the call ends. The broker
// must take the same records, sent next, for a repetition, and others for a new
// epoch.
func TestCutShortOnEitherBroker(t *testing.T) {
	c := kafkatest.Start(t)
	topic, s := c.Topic(t, 1), stream{}
	lossy := &wire{dial: new(net.Dialer).DialContext}
	cfg := c.Config()
	cfg.Dial = lossy.Dial
	p := kafka.NewProducer(connect(t, cfg), slog.New(slog.DiscardHandler))
	produce := func(d time.Duration, recs []event.Record) error {
		return p.Produce(within(t, d), topic, recs)
	}
	for round, next := range []func(lost []event.Record) []event.Record{
		func(lost []event.Record) []event.Record { return append(lost, s.take(3)...) },
		func([]event.Record) []event.Record { return s.take(7) }, // the lost ones are stored nevertheless
		func(lost []event.Record) []event.Record { return lost },
	} {
		if err := produce(time.Minute, s.take(5)); err != nil {
			t.Fatal(err)
		}
		lossy.on(func() fate { return silent })
		lost := s.take(7)
		unacknowledged(t, produce(time.Second, lost), 7)
		lossy.on(nil)
		if err := produce(time.Minute, next(lost)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := produce(time.Minute, s.take(5)); err != nil {
			t.Fatal(err)
		}
	}
	s.check(t, read(t, c.Brokers, topic), false)
}

// TestTopicRecreated: the broker has no state of this producer any more and
// answers that its sequence is out of order.
func TestTopicRecreated(t *testing.T) {
	c := kafkatest.Start(t)
	topic, p := c.Topic(t, 1), newProducer(t, c)
	if err := p.Produce(within(t, time.Minute), topic, stream{}.take(20)); err != nil {
		t.Fatal(err)
	}
	recreate(t, c, topic)
	s := stream{}
	for range 3 {
		if err := p.Produce(within(t, time.Minute), topic, s.take(20)); err != nil {
			t.Fatal(err)
		}
	}
	s.check(t, read(t, c.Brokers, topic), false)
}

func recreate(t *testing.T, c *kafkatest.Cluster, topic string) {
	t.Helper()
	client, ctx := c.Client(t), within(t, time.Minute)
	resp, err := client.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
	if err == nil {
		err = resp.Errors[topic]
	}
	if err != nil {
		t.Fatal(err)
	}
	for { // deletion takes a while, and the broker refuses to create the topic until it is done
		err := kafka.EnsureTopic(ctx, client, topic, 1, true)
		if err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
			t.Fatal(err)
		}
		kafka.Forget(client)
		if n, err := kafka.Partitions(ctx, client, topic); n == 1 && err == nil {
			return
		}
	}
}

func TestEnsureTopic(t *testing.T) {
	c := kafkatest.Start(t)
	client := c.Client(t)
	topic := c.Topic(t, 2) + "-other"
	err := kafka.EnsureTopic(within(t, time.Minute), client, topic, 3, false)
	var missing *kafka.MissingTopicError
	if !errors.As(err, &missing) || missing.Topic != topic || missing.Partitions != 3 {
		t.Fatalf("EnsureTopic = %v, want a MissingTopicError", err)
	}
	// Several services start at once, and each of them twice.
	var all sync.WaitGroup
	for range 4 {
		other := c.Client(t)
		all.Go(func() {
			for range 2 {
				if err := kafka.EnsureTopic(within(t, time.Minute), other, topic, 3, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n, err := kafka.Partitions(within(t, time.Minute), client, topic); n != 3 || err != nil {
		t.Errorf("Partitions = %d, %v; want 3", n, err)
	}
	if err := kafka.EnsureTopic(within(t, time.Minute), client, topic, 3, false); err != nil {
		t.Errorf("EnsureTopic of an existing topic = %v", err)
	}
	if !kafkatest.IsReal() {
		return // the embedded broker accepts any name
	}
	if err := kafka.EnsureTopic(within(t, time.Minute), client, "no good name", 1, true); !errors.Is(err, kafkago.InvalidTopic) {
		t.Errorf("EnsureTopic of an invalid name = %v, want InvalidTopic", err)
	}
}

func TestReachable(t *testing.T) {
	c := kafkatest.StartOwn(t)
	client := c.Client(t)
	if err := kafka.Reachable(within(t, 10*time.Second), client); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Reachable(within(t, 10*time.Second), client); err == nil {
		t.Error("Reachable = nil while the broker is stopped")
	}
	if err := c.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Reachable(within(t, 10*time.Second), client); err != nil {
		t.Errorf("Reachable after the restart = %v", err)
	}
}

// BenchmarkLibrary is the baseline of BenchmarkProduce: the same records through
// the library's own call, which is not idempotent.
func BenchmarkLibrary(b *testing.B) {
	c := kafkatest.Start(b)
	topic, client := c.Topic(b, 1), c.Client(b)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			made := load(n)
			b.ReportAllocs()
			for b.Loop() {
				recs := make([]kafkago.Record, 0, n)
				for _, r := range made {
					recs = append(recs, kafkago.Record{Key: kafkago.NewBytes(r.Key), Value: kafkago.NewBytes(r.Value), Headers: []kafkago.Header{{Key: r.Headers[0].Key, Value: r.Headers[0].Value}}})
				}
				resp, err := client.Produce(b.Context(), &kafkago.ProduceRequest{Topic: topic, RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(recs...)})
				if err != nil || resp.Error != nil {
					b.Fatal(err, resp)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// load returns records like those of the outbox.
func load(n int) []event.Record {
	recs := make([]event.Record, n)
	value := bytes.Repeat([]byte("x"), 500)
	for i := range recs {
		recs[i] = event.Record{Key: fmt.Appendf(nil, "0198c2f0-0000-7000-8000-%012d", i), Value: value, Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8")}}}
	}
	return recs
}

func BenchmarkProduce(b *testing.B) {
	c := kafkatest.Start(b)
	topic := c.Topic(b, 1)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			p := newProducer(b, c)
			recs := load(n)
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Produce(b.Context(), topic, recs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
