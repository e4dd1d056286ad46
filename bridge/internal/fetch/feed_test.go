package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// longPoll is longer than any test: what has to wait for the end of one fails.
const longPoll = 5 * time.Minute

// memory is a budget of one answer at a time, or without a limit.
type memory struct {
	place chan struct{} // nil: no limit

	mu   sync.Mutex
	held int
	asks int
}

func (m *memory) grant(ctx context.Context, size int) (int64, error) {
	m.mu.Lock()
	m.asks++
	m.mu.Unlock()
	if m.place != nil {
		select {
		case m.place <- struct{}{}:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held += size
	return int64(size), nil
}

func (m *memory) release(granted int64) {
	if granted == 0 {
		return
	}
	m.mu.Lock()
	m.held -= int(granted)
	m.mu.Unlock()
	if m.place != nil {
		<-m.place
	}
}

func (m *memory) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asks
}

// feeding runs a feed until the end of the test, when everything granted must be back.
func feeding(t *testing.T, client *kafkago.Client, topic string, wait time.Duration, m *memory, partition int) *fetch.Feed {
	t.Helper()
	f, err := fetch.NewFeed(client, fetch.FeedConfig{Topic: topic, MaxWait: wait, Grant: m.grant, Release: m.release,
		Sizes: func() (int, int) { return partition, 2 * partition }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if m.held != 0 {
			t.Errorf("%d bytes of memory were not given back", m.held)
		}
	})
	return f
}

// seconds is a deadline far below longPoll.
func seconds(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// produce writes values to a partition, each in a batch of its own.
func produce(t *testing.T, brokers []string, topic string, partition int, values ...string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, v := range values {
		if err := cl.ProduceSync(seconds(t), &kgo.Record{Topic: topic, Partition: int32(partition), Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// values reads an answer to its end and gives its memory back.
func values(t *testing.T, a fetch.Answer, m *memory) (out []string, next int64) {
	t.Helper()
	defer m.release(a.Granted)
	records := fetch.Read(a.Batches, a.Offset, 1<<20)
	for {
		rec, err := records.Read()
		if errors.Is(err, io.EOF) {
			return out, records.Next()
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(rec.Value))
	}
}

func TestFeedServesEachPartitionItsOwnRecords(t *testing.T) {
	const partitions, records = 20, 30
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, partitions)
	for id := range partitions {
		var vs []string
		for i := range records {
			vs = append(vs, fmt.Sprintf("%d of %d", i, id))
		}
		produce(t, cluster.Brokers, topic, id, vs...)
	}
	m := &memory{place: make(chan struct{}, 3)}
	f := feeding(t, cluster.Client(t), topic, 500*time.Millisecond, m, 300) // some batches at a time
	var readers sync.WaitGroup
	for id := range partitions {
		readers.Go(func() {
			offset := kafkago.FirstOffset
			for i := 0; i < records; {
				a, err := f.Next(seconds(t), id, offset, -1)
				if err != nil {
					t.Errorf("partition %d at %d: %v", id, offset, err)
					return
				}
				if a.End != records || a.LogStart != 0 {
					t.Errorf("partition %d from %d to %d, want 0 to %d", id, a.LogStart, a.End, records)
				}
				got, next := values(t, a, m)
				for _, v := range got {
					if want := fmt.Sprintf("%d of %d", i, id); v != want {
						t.Errorf("partition %d: %q, want %q", id, v, want)
					}
					i++
				}
				offset = next
			}
		})
	}
	readers.Wait()
}

// However long a poll lasts: a record that arrives in a partition of it, a partition
// that comes later, and the end of the feed do not wait for its end.
func TestNobodyWaitsForALongPoll(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 6)
	m := &memory{}
	f := feeding(t, cluster.Client(t), topic, longPoll, m, 1<<20)
	type got struct {
		id     int
		values []string
	}
	answers := make(chan got, 6)
	ask := func(id int) {
		go func() {
			a, err := f.Next(seconds(t), id, 0, 0)
			if err != nil {
				t.Errorf("partition %d: %v", id, err)
			}
			vs, _ := values(t, a, m)
			answers <- got{id, vs}
		}()
	}
	for id := range 6 { // whichever requests they come to be in
		ask(id)
	}
	for id := range 6 {
		produce(t, cluster.Brokers, topic, id, fmt.Sprint("of ", id))
		if a := <-answers; a.id != id || !slices.Equal(a.values, []string{fmt.Sprint("of ", id)}) {
			t.Errorf("after a record for %d: partition %d has %q", id, a.id, a.values)
		}
	}
}

// An answer belongs to the call that its request was made for. A later call of the
// same partition may begin at a lower offset; with that answer it would skip records.
func TestALateAnswerIsNotForALaterCall(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	produce(t, cluster.Brokers, topic, 0, "a", "b", "c", "d")
	m := &memory{place: make(chan struct{}, 1)}
	m.place <- struct{}{} // no memory for now
	f := feeding(t, cluster.Client(t), topic, longPoll, m, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := f.Next(ctx, 0, 2, -1)
		first <- err
	}()
	apptest.Await(t, "an answer waits for memory", func() bool { return m.asked() == 1 })
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call = %v, want %v", err, context.Canceled)
	}
	second := make(chan []string, 1)
	go func() {
		a, err := f.Next(seconds(t), 0, 0, -1)
		if err != nil || a.Offset != 0 {
			t.Errorf("the second call: from %d, %v; want from 0", a.Offset, err)
		}
		vs, _ := values(t, a, m)
		second <- vs
	}()
	apptest.Await(t, "the answer to the second call waits, too", func() bool { return m.asked() == 2 })
	<-m.place
	if got := <-second; !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("records = %q, want all from offset 0", got)
	}
}

// What a broker refuses of one partition is that partition's error alone, also when
// one request names it and others.
func TestARefusedPartitionEndsNoOther(t *testing.T) {
	b, client, fetches := watched(t, 3)
	produce(t, []string{b.Addr()}, "t", 1, "good")
	m := &memory{}
	f := feeding(t, client, "t", longPoll, m, 1<<20)
	together := func() bool { // often enough that the refused one is named first in some
		n := 0
		for _, ids := range fetches() {
			if slices.Contains(ids, 1) && len(ids) > 1 {
				n++
			}
		}
		return n > 20
	}
	var calls sync.WaitGroup
	for id, want := range map[int]error{0: kafkago.OffsetOutOfRange, 2: kafkago.OffsetOutOfRange, 7: kafkago.UnknownTopicOrPartition} {
		calls.Go(func() {
			for ctx := seconds(t); !together() && ctx.Err() == nil; {
				if _, err := f.Next(ctx, id, 99, -1); !errors.Is(err, want) {
					t.Errorf("partition %d = %v, want %v", id, err, want)
				}
			}
		})
	}
	calls.Go(func() {
		for ctx := seconds(t); !together() && ctx.Err() == nil; {
			a, err := f.Next(ctx, 1, 0, -1)
			if err != nil {
				t.Errorf("the good partition: %v", err)
				continue
			}
			if vs, _ := values(t, a, m); !slices.Equal(vs, []string{"good"}) {
				t.Errorf("records = %q", vs)
			}
		}
	})
	calls.Wait()
	if !together() {
		t.Error("no request named both a good and a refused partition")
	}
}

// A partition whose records nobody has room for holds back neither its neighbours in
// the same answer, which are handed out before it is read, nor other requests.
func TestMemoryIsGrantedPartitionByPartition(t *testing.T) {
	const partitions = 5
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, partitions)
	for id := range partitions {
		produce(t, cluster.Brokers, topic, id, fmt.Sprint("of ", id))
	}
	m := &memory{place: make(chan struct{}, 1)}
	f := feeding(t, cluster.Client(t), topic, longPoll, m, 1<<20)
	answers := make(chan fetch.Answer, partitions)
	for id := range partitions {
		go func() {
			a, err := f.Next(seconds(t), id, 0, -1)
			if err != nil {
				t.Errorf("partition %d: %v", id, err)
			}
			answers <- a
		}()
	}
	seen := map[string]bool{}
	for range partitions {
		a := <-answers // the others wait for what it holds
		vs, _ := values(t, a, m)
		seen[fmt.Sprint(vs)] = true
	}
	if len(seen) != partitions {
		t.Errorf("answers = %v, want one of each partition", seen)
	}
}

// watched is a broker that notes which partitions each fetch names.
func watched(t *testing.T, partitions int, brokers ...kfake.Opt) (b *embedkafka.Broker, client *kafkago.Client, fetches func() [][]int32) {
	t.Helper()
	b, err := embedkafka.Start(embedkafka.Config{Topics: map[string]int{"t": partitions}, Options: brokers})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all [][]int32
	b.Cluster().ControlKey(1, func(req kmsg.Request) (kmsg.Response, error, bool) {
		var ids []int32
		for _, p := range req.(*kmsg.FetchRequest).Topics[0].Partitions {
			ids = append(ids, p.Partition)
		}
		slices.Sort(ids)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, ids)
		return nil, nil, false
	})
	cfg := kafka.Config{Brokers: []string{b.Addr()}, ClientID: "test"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { transport.Close(); _ = b.Close() })
	return b, kafka.NewClient(cfg, transport), func() [][]int32 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// Partitions that want nothing but news end up in one request, however they came.
func TestIdlePartitionsShareOneRequest(t *testing.T) {
	const partitions = 200
	_, client, fetches := watched(t, partitions)
	m := &memory{}
	f := feeding(t, client, "t", 50*time.Millisecond, m, 1<<20)
	for id := range partitions {
		go func() { _, _ = f.Next(t.Context(), id, 0, 0) }()
	}
	apptest.Await(t, "three requests in a row name all partitions", func() bool {
		all := fetches()
		return len(all) > 3 && !slices.ContainsFunc(all[len(all)-3:], func(ids []int32) bool { return len(ids) != partitions })
	})
}

// Who does not ask is not fetched: neither before the first call, nor after a call
// that was cancelled, nor while the last answer is being dealt with.
func TestOnlyWhoAsksIsFetched(t *testing.T) {
	_, client, fetches := watched(t, 3)
	m := &memory{}
	f := feeding(t, client, "t", 20*time.Millisecond, m, 1<<20)
	revoked, revoke := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); _, _ = f.Next(revoked, 0, 0, 0) }()
	go func() { _, _ = f.Next(t.Context(), 1, 0, 0) }()
	apptest.Await(t, "both are fetched", func() bool {
		all := fetches()
		return len(all) > 0 && slices.Equal(all[len(all)-1], []int32{0, 1})
	})
	revoke()
	<-over
	n := len(fetches()) + 1 // one may be on its way
	apptest.Await(t, "more requests", func() bool { return len(fetches()) > n+5 })
	for _, ids := range fetches()[n:] {
		if !slices.Equal(ids, []int32{1}) {
			t.Errorf("a request names %v, want only 1", ids)
		}
	}
}

// A leader that moves is that partition's error once; then the new one serves it.
func TestFeedFollowsALeader(t *testing.T) {
	b, client, _ := watched(t, 2, kfake.NumBrokers(2))
	cl := b.Cluster()
	for id := range int32(2) {
		if err := cl.MoveTopicPartition("t", id, 0); err != nil {
			t.Fatal(err)
		}
	}
	m := &memory{}
	f := feeding(t, client, "t", 100*time.Millisecond, m, 1<<20)
	next := func(id int, offset int64) (got []string) {
		apptest.Await(t, "records", func() bool {
			a, err := f.Next(seconds(t), id, offset, -1)
			if err == nil {
				got, _ = values(t, a, m)
			}
			return len(got) > 0
		})
		return got
	}
	produce(t, []string{b.Addr()}, "t", 0, "before")
	if got := next(0, 0); !slices.Equal(got, []string{"before"}) {
		t.Errorf("records = %q", got)
	}
	if err := cl.MoveTopicPartition("t", 0, 1); err != nil {
		t.Fatal(err)
	}
	produce(t, []string{b.Addr()}, "t", 0, "after")
	if got := next(0, 1); !slices.Equal(got, []string{"after"}) {
		t.Errorf("records = %q", got)
	}
	produce(t, []string{b.Addr()}, "t", 1, "stayed")
	if got := next(1, 0); !slices.Equal(got, []string{"stayed"}) {
		t.Errorf("records = %q", got)
	}
}

// A long backlog of some partitions does not keep the others from being served.
func TestABacklogStarvesNobody(t *testing.T) {
	const partitions = 6
	b, client, _ := watched(t, partitions)
	for id := range partitions {
		produce(t, []string{b.Addr()}, "t", id, slices.Repeat([]string{string(make([]byte, 1000))}, 40)...)
	}
	m := &memory{}
	f := feeding(t, client, "t", longPoll, m, 1500) // an answer has room for two partitions
	var readers sync.WaitGroup
	ctx, stop := context.WithCancel(seconds(t))
	for id := range partitions - 1 {
		readers.Go(func() {
			for offset := int64(0); ctx.Err() == nil; offset = (offset + 1) % 40 {
				if a, err := f.Next(ctx, id, offset, 40); err == nil {
					m.release(a.Granted)
				}
			}
		})
	}
	for offset := range int64(40) {
		a, err := f.Next(seconds(t), partitions-1, offset, 40)
		if err != nil || len(a.Batches) == 0 {
			t.Fatalf("at %d: %d bytes, %v", offset, len(a.Batches), err)
		}
		m.release(a.Granted)
	}
	stop()
	readers.Wait()
}
