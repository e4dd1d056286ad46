package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bundle struct {
	broker   *embedkafka.Broker
	producer *kafka.Producer
	cfg      kafka.Config
}

func start(t testing.TB, cfg embedkafka.Config) *embedkafka.Broker {
	t.Helper()
	b, err := embedkafka.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func connect(t testing.TB, b *embedkafka.Broker) bundle {
	cfg := kafka.Config{Brokers: []string{b.Addr()}, ClientID: "test"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return bundle{b, kafka.NewProducer(kafka.NewClient(cfg, transport), slog.New(slog.DiscardHandler)), cfg}
}

func setup(t testing.TB, partitions int) bundle {
	return connect(t, start(t, embedkafka.Config{Addr: "127.0.0.1:0", Topics: map[string]int{"events": partitions}}))
}

func records(n int) []event.Record {
	out := make([]event.Record, n)
	for i := range out {
		out[i] = event.Record{Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Appendf(nil, "v%d", i), Headers: []event.Header{{Key: "h", Value: []byte("x")}}}
	}
	return out
}

func expected(rs []event.Record) map[string][]string {
	out := map[string][]string{}
	for _, r := range rs {
		out[string(r.Key)] = append(out[string(r.Key)], string(r.Value))
	}
	return out
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// holds reads the topic with another client: exactly rs, in order per key. One
// record more is produced last, so that a repetition before it would be seen.
func holds(t *testing.T, b *embedkafka.Broker, rs []event.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.ConsumeTopics("events"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	parts, err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: []byte("end")}).First()
	if err != nil || parts.Partition != 0 {
		t.Fatal(err)
	}
	got := map[string][]string{}
	n, ended := 0, false
	for ctx := within(t, 10*time.Second); !ended || n < len(rs); {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("%d of %d records: %v", n, len(rs), err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Value) == "end" {
				ended = true
				return
			}
			got[string(r.Key)] = append(got[string(r.Key)], string(r.Value))
			n++
		})
	}
	if diff := cmp.Diff(expected(rs), got); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestOrderPerKeyOnOneAndOnSeveralPartitions(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		b := setup(t, partitions)
		rs := records(5000)
		for i := 0; i < len(rs); i += 2500 {
			if err := b.producer.Produce(t.Context(), "events", rs[i:i+2500]); err != nil {
				t.Fatal(err)
			}
		}
		holds(t, b.broker, rs)
	}
}

func TestRefusedBatchesAreSentAgainAndStoredOnce(t *testing.T) {
	for name, code := range map[string]int16{
		"not enough replicas": 19, "not leader": 6, "leader not available": 5, "timed out": 7, "unknown topic": 3, "out of order sequence": 45, "unknown producer": 59,
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, 1)
			left := 2 // owned by the broker's goroutine until Produce returns
			b.broker.Cluster().ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
				if left == 0 {
					return nil, nil, false
				}
				left--
				b.broker.Cluster().KeepControl()
				return refuse(req.(*kmsg.ProduceRequest), code), nil, true
			})
			rs := records(50)
			if err := b.producer.Produce(within(t, 20*time.Second), "events", rs); err != nil {
				t.Fatal(err)
			}
			holds(t, b.broker, rs)
		})
	}
}

func refuse(req *kmsg.ProduceRequest, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestAMissingTopicIsNamedWithTheCommandThatMakesIt(t *testing.T) {
	b := setup(t, 1)
	err := b.producer.Produce(t.Context(), "nowhere", records(1))
	var missing *kafka.MissingTopicError
	var produce *kafka.ProduceError
	if !errors.As(err, &missing) || !errors.As(err, &produce) || produce.Acked[0] {
		t.Fatalf("Produce = %v", err)
	}
	if !strings.Contains(missing.Error(), "--create --topic nowhere") {
		t.Errorf("message = %s", missing)
	}
}

func TestEnsureTopicMakesWhatIsMissing(t *testing.T) {
	b := setup(t, 1)
	transport, err := kafka.NewTransport(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	client := kafka.NewClient(b.cfg, transport)
	for range 2 { // the second finds it there
		if err := kafka.EnsureTopic(t.Context(), client, "made", 3, true); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := kafka.Partitions(t.Context(), client, "made"); n != 3 || err != nil {
		t.Errorf("Partitions = %d, %v; want 3", n, err)
	}
}

func TestABrokerThatIsAwayEndsWithTheContext(t *testing.T) {
	b := setup(t, 1)
	if err := b.broker.Close(); err != nil {
		t.Fatal(err)
	}
	err := b.producer.Produce(within(t, 300*time.Millisecond), "events", records(3))
	var produce *kafka.ProduceError
	if !errors.As(err, &produce) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Produce = %v, want a ProduceError that ends with the context", err)
	}
}

func TestTheProducerOutlivesABrokerRestart(t *testing.T) {
	cfg := embedkafka.Config{Addr: "127.0.0.1:0", DataDir: t.TempDir(), Topics: map[string]int{"events": 1}}
	b := connect(t, start(t, cfg))
	rs := records(30)
	if err := b.producer.Produce(t.Context(), "events", rs[:10]); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := within(t, 20*time.Second)
	go func() { done <- b.producer.Produce(ctx, "events", rs[10:]) }()
	cfg.Addr = b.broker.Addr()
	again := start(t, cfg)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	holds(t, again, rs)
}

func TestASecondBrokerOnTheSameDataIsRefused(t *testing.T) {
	cfg := embedkafka.Config{Addr: "127.0.0.1:0", DataDir: t.TempDir()}
	start(t, cfg)
	if _, err := embedkafka.Start(cfg); err == nil || !strings.Contains(err.Error(), "is in use by another process") {
		t.Errorf("Start = %v, want a line that says the data is in use", err)
	}
}

func BenchmarkProduce(b *testing.B) {
	s := setup(b, 1)
	rs := records(200)
	for b.Loop() {
		if err := s.producer.Produce(b.Context(), "events", rs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(rs))/b.Elapsed().Seconds(), "records/s")
}
