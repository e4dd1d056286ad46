package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// until fetches until a record has the offset last.
func until(t *testing.T, c *kafkago.Client, topic string, offset, last int64) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for offset <= last {
		answer, err := fetch.Fetch(ctx, c, fetch.Request{Topic: topic, Offset: offset, MaxBytes: 64 << 10, MaxWait: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if answer.End != last+1 {
			t.Errorf("End = %d, want %d", answer.End, last+1)
		}
		records := fetch.Read(answer.Batches, offset, 1<<20)
		for {
			rec, err := records.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, string(rec.Value))
		}
		offset = records.Next()
	}
	return values
}

func TestFetchFromABroker(t *testing.T) {
	cluster := kafkatest.Start(t)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			topic := cluster.Topic(t, 1)
			producer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Config().Brokers...), kgo.ProducerBatchCompression(codec))
			if err != nil {
				t.Fatal(err)
			}
			defer producer.Close()
			var want []string
			var recs []*kgo.Record
			for i := range 2000 {
				want = append(want, fmt.Sprintf("value %d of many that look alike", i))
				recs = append(recs, &kgo.Record{Topic: topic, Value: []byte(want[i])})
			}
			if err := producer.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			c := cluster.Client(t)
			if diff := cmp.Diff(want, until(t, c, topic, kafkago.FirstOffset, 1999)); diff != "" {
				t.Errorf("all (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want[777:], until(t, c, topic, 777, 1999)); diff != "" {
				t.Errorf("from 777 (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFetchSaysWhatTheBrokerRefuses(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	c := cluster.Client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := fetch.Fetch(ctx, c, fetch.Request{Topic: topic, Offset: 5, MaxBytes: 1 << 20, MaxWait: time.Millisecond})
	if !errors.Is(err, kafkago.OffsetOutOfRange) {
		t.Errorf("beyond the end: err = %v, want %v", err, kafkago.OffsetOutOfRange)
	}
	answer, err := fetch.Fetch(ctx, c, fetch.Request{Topic: topic, MaxBytes: 1 << 20, MaxWait: time.Millisecond})
	if err != nil || len(answer.Batches) != 0 || answer.End != 0 {
		t.Errorf("an empty topic: %+v, %v", answer, err)
	}
	if _, err := fetch.Fetch(ctx, c, fetch.Request{Topic: "unknown", MaxBytes: 1 << 20, MaxWait: time.Millisecond}); err == nil {
		t.Error("a topic that does not exist: err = nil")
	}
}

// An answer's size is known before it is read, a refused grant ends the fetch,
// and the next fetch works.
func TestFetchAsksBeforeItReads(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	producer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Config().Brokers...), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: make([]byte, 500_000)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	c := cluster.Client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	refused := errors.New("no memory")
	asked := 0
	request := fetch.Request{Topic: topic, MaxBytes: 16 << 10, MaxWait: time.Second, Grant: func(_ context.Context, size int) error { asked = size; return refused }}
	if _, err := fetch.Fetch(ctx, c, request); !errors.Is(err, refused) {
		t.Errorf("err = %v, want %v", err, refused)
	}
	if asked < 500_000 {
		t.Errorf("asked for %d bytes, want what the broker sent, more than 500000", asked)
	}
	request.Grant = func(context.Context, int) error { return nil }
	if answer, err := fetch.Fetch(ctx, c, request); err != nil || len(answer.Batches) != asked {
		t.Errorf("granted: %d bytes, %v; want %d", len(answer.Batches), err, asked)
	}
}
