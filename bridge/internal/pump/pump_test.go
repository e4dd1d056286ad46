package pump_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post is one delivery as the sink saw it.
type post struct {
	ID, Key, Attempt string
	Status           int
}

// sink answers as the test says and fails the test when two posts of one key overlap.
type sink struct {
	t      *testing.T
	answer func(id string, attempt int) int // status; negative hangs up
	server *httptest.Server

	mu       sync.Mutex
	posts    []post
	tries    map[string]int
	inFlight map[string]bool
}

func newSink(t *testing.T, answer func(id string, attempt int) int) *sink {
	s := &sink{t: t, answer: answer, tries: map[string]int{}, inFlight: map[string]bool{}}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e struct {
		ID  string `json:"id"`
		Key string `json:"partitionkey"`
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &e) != nil {
		s.t.Errorf("a post is no event: %s", body)
		return
	}
	s.mu.Lock()
	if s.inFlight[e.Key] {
		s.t.Errorf("two posts of key %s at once", e.Key)
	}
	s.inFlight[e.Key] = true
	s.tries[e.ID]++
	try := s.tries[e.ID]
	s.mu.Unlock()
	status := s.answer(e.ID, try)
	s.mu.Lock()
	s.inFlight[e.Key] = false
	s.posts = append(s.posts, post{e.ID, e.Key, r.Header.Get("Taskwire-Attempt"), status})
	s.mu.Unlock()
	if status < 0 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
}

// accepted is the ids answered with 2xx, in order.
func (s *sink) accepted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, p := range s.posts {
		if p.Status >= 200 && p.Status < 300 {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

func (s *sink) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries[id]
}

func (s *sink) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.posts)
}

type bundle struct {
	t      *testing.T
	broker *embedkafka.Broker
	client *kafkago.Client
	cfg    pump.Config
	budget int64 // bytes
	shared *pump.Budget
	before func(*pump.Subscription) // it runs; nil for nothing
	log    *slog.Logger             // nil: discarded
	reg    *prometheus.Registry     // of the last run
}

func setup(t *testing.T, sinkURL string) *bundle { return setupWith(t, sinkURL, 1) }

// setupWith has a number of partitions for dead letters.
func setupWith(t *testing.T, sinkURL string, letters int) *bundle {
	t.Helper()
	return setupOn(t, sinkURL, embedkafka.Config{Addr: "127.0.0.1:0", Topics: map[string]int{"events": 1, "dlq": letters}})
}

func setupOn(t *testing.T, sinkURL string, broker embedkafka.Config) *bundle {
	t.Helper()
	b, err := embedkafka.Start(broker)
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafka.Config{Brokers: []string{b.Addr()}, ClientID: "bridge"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { transport.Close(); _ = b.Close() })
	return &bundle{t: t, broker: b, budget: 64 << 20, client: kafka.NewClient(cfg, transport), cfg: pump.Config{
		Name: "sub", Group: "group", Topic: "events", Sink: sinkURL, Order: pump.ByKey, Concurrency: 16, Timeout: 5 * time.Second,
		Backoff:  deliver.Backoff{Initial: time.Millisecond, Multiplier: 2, Max: 10 * time.Millisecond},
		Attempts: 5, For: time.Hour, DeadLetter: "dlq", Drain: 5 * time.Second, InstanceID: "one", Partitions: 1,
	}}
}

// produce appends raw values with key; an event's id is its position on the topic.
func (b *bundle) produce(records ...*kgo.Record) {
	b.t.Helper()
	partition := kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, _ int) int { return int(r.Partition) }
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.broker.Addr()), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.RecordPartitioner(partition))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func event(id, key string) *kgo.Record {
	return &kgo.Record{Topic: "events", Key: []byte(key), Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8")}},
		Value: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"s","type":"t","partitionkey":%q}`, id, key)}
}

func events(n, keys int) []*kgo.Record {
	var out []*kgo.Record
	for i := range n {
		out = append(out, event(fmt.Sprintf("%05d", i), fmt.Sprintf("k%d", i%keys)))
	}
	return out
}

// run starts the subscription; stop ends it and waits.
func (b *bundle) run() (s *pump.Subscription, stop func()) {
	b.t.Helper()
	log := b.log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b.reg = prometheus.NewRegistry()
	budget := b.shared
	if budget == nil {
		budget = pump.NewBudget(b.budget)
	}
	s, err := pump.New(b.cfg, b.client, kafka.NewProducer(b.client, log), budget, pump.NewMetrics(b.reg), log)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.before != nil {
		b.before(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Errorf("Run = %v", err)
			}
		})
	}
	b.t.Cleanup(stop)
	return s, stop
}

// committed is the group's offset and metadata, as the broker has them.
func (b *bundle) committed() (int64, string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := b.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: "group", Topics: map[string][]int{"events": {0}}})
	if err != nil {
		b.t.Fatal(err)
	}
	if len(resp.Topics["events"]) == 0 {
		return -1, "" // the coordinator is only being found
	}
	p := resp.Topics["events"][0]
	return p.CommittedOffset, p.Metadata
}

func (b *bundle) letters() []deadletter.Stored {
	b.t.Helper()
	var out []deadletter.Stored
	for _, p := range b.positions() {
		_, err := deadletter.Scan(b.t.Context(), b.client, deadletter.Range{Topic: "dlq", Partition: p.Partition, From: p.First, To: p.End}, func(rec fetch.Record) error {
			if l, ok := deadletter.FromRecord(p.Partition, rec); ok {
				out = append(out, l)
			}
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return out
}

// positions are how far the dead letters of the subscription are dealt with.
func (b *bundle) positions() []deadletter.Position {
	b.t.Helper()
	var keys seal.Keys
	if b.cfg.Keys != nil {
		keys = b.cfg.Keys()
	}
	all, err := deadletter.Positions(b.t.Context(), b.client, deadletter.Group(b.cfg.Group), "dlq", keys)
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// open are the letters of the subscription that nobody has dealt with.
func (b *bundle) open() []deadletter.Stored {
	b.t.Helper()
	var out []deadletter.Stored
	positions := b.positions()
	for _, l := range b.letters() {
		if l.Letter.Subscription == b.cfg.Name && !positions[l.Partition].Done(l.Offset) {
			out = append(out, l)
		}
	}
	return out
}

// until waits for an observable state.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("after a minute still not: %s", what)
}

func (b *bundle) untilCommitted(offset int64) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("offset %d committed", offset), func() bool { got, _ := b.committed(); return got == offset })
}

// inOrder fails when the ids of a key were accepted other than ascending, each once.
func inOrder(t *testing.T, s *sink) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	last := map[string]string{}
	for _, p := range s.posts {
		if p.Status >= 200 && p.Status < 300 {
			if p.ID <= last[p.Key] {
				t.Errorf("key %s: %s accepted after %s", p.Key, p.ID, last[p.Key])
			}
			last[p.Key] = p.ID
		}
	}
}

func TestOrderPerKeyHoldsWhateverTheSinkDoes(t *testing.T) {
	s := newSink(t, func(string, int) int {
		return [...]int{200, 204, 201, 202, 503, 500, 429, -1, 302, 404}[rand.IntN(10)]
	})
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	b.produce(events(600, 23)...)
	_, stop := b.run()
	b.untilCommitted(600)
	stop()
	inOrder(t, s)
	if got := s.accepted(); len(got) != 600 {
		t.Errorf("%d accepted, want each of 600 once", len(got))
	}
}

func TestNothingIsCommittedPastAHoleAndARestartDoesNotRepeatWhatIsDone(t *testing.T) {
	var mu sync.Mutex
	broken := true
	s := newSink(t, func(id string, _ int) int {
		mu.Lock()
		defer mu.Unlock()
		if id == "00007" && broken {
			return 500
		}
		return 204
	})
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	b.produce(events(100, 10)...) // the key of 7 has 10 events
	_, stop := b.run()
	until(t, "all other keys delivered", func() bool { return len(s.accepted()) == 90 })
	b.untilCommitted(7)
	stop()
	if offset, metadata := b.committed(); offset != 7 || metadata == "" {
		t.Fatalf("committed %d with metadata %q, want 7 with a map of what is done above it", offset, metadata)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	_, stop = b.run()
	b.untilCommitted(100)
	stop()
	inOrder(t, s)
	if got := s.accepted(); len(got) != 100 {
		t.Errorf("%d accepted, want 100: none again, none left out", len(got))
	}
}

func TestARefusedEventBecomesADeadLetterAndItsKeyGoesOn(t *testing.T) {
	s := newSink(t, func(id string, _ int) int {
		if id == "00003" {
			return 422
		}
		return 200
	})
	b := setup(t, s.server.URL)
	recs := events(20, 5)
	recs[3].Headers = append(recs[3].Headers, kgo.RecordHeader{Key: "extra", Value: []byte{0xff, 0}})
	b.produce(recs...)
	_, stop := b.run()
	b.untilCommitted(20)
	stop()
	letters := b.letters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	l := letters[0]
	if string(l.Record.Value) != string(recs[3].Value) || string(l.Record.Key) != "k3" || string(l.Record.Headers[1].Value) != "\xff\x00" {
		t.Errorf("the record changed: %+v", l.Record)
	}
	if l.Letter.Reason != deadletter.Rejected || l.Letter.Status != 422 || l.Letter.Offset != 3 || l.Letter.Attempts != 1 || l.Letter.Group != "group" {
		t.Errorf("letter = %+v", l.Letter)
	}
	inOrder(t, s)
}

func TestAttemptsRunOutForAnEventButNotForAWrongSink(t *testing.T) {
	s := newSink(t, func(id string, try int) int {
		switch {
		case id == "00001":
			return 500 // for ever
		case id == "00002" && try <= 8:
			return 302 // the address is wrong for longer than attempts allow
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.produce(events(10, 10)...)
	_, stop := b.run()
	b.untilCommitted(10)
	stop()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Letter.Offset != 1 || letters[0].Letter.Reason != deadletter.Exhausted || letters[0].Letter.Attempts != 5 {
		t.Errorf("letters = %+v, want offset 1 exhausted after 5 attempts", letters)
	}
	if n := s.count("00002"); n != 9 {
		t.Errorf("the redirected event was posted %d times, want 9", n)
	}
}

func TestTheBlockingSubscriptionNeverSkips(t *testing.T) {
	s := newSink(t, func(id string, try int) int {
		if id == "00001" && try <= 20 {
			return 400
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	b.produce(events(4, 4)...)
	_, stop := b.run()
	b.untilCommitted(4)
	stop()
	if len(b.letters()) != 0 || s.count("00001") != 21 {
		t.Errorf("%d letters, %d posts; want none and 21", len(b.letters()), s.count("00001"))
	}
}

func TestWhatIsNoEventIsPutAsideByEverySubscription(t *testing.T) {
	s := newSink(t, func(string, int) int { return 200 })
	b := setup(t, s.server.URL)
	b.cfg.Block = true
	b.produce(
		event("00000", "a"),
		&kgo.Record{Topic: "events", Key: []byte("a"), Value: []byte("not json")},
		&kgo.Record{Topic: "events", Key: []byte("a")}, // a tombstone
		event("00001", "a"),
		&kgo.Record{Topic: "events", Value: []byte(`{"event_id":"00002","event_type":"task.created","occurred_at":"2025-01-15T10:30:00+00:00","data":{"task_id":"b"},"metadata":{"correlation_id":"c","source":"task-api"}}`)},
	)
	_, stop := b.run()
	b.untilCommitted(5)
	stop()
	if got := s.accepted(); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"00000", "00001", "00002"}) {
		t.Errorf("accepted %v", got)
	}
	letters := b.letters()
	if len(letters) != 2 || letters[0].Letter.Reason != deadletter.Malformed || letters[0].Letter.Offset != 1 || letters[1].Record.Value != nil {
		t.Errorf("letters = %+v", letters)
	}
}

func TestWithoutADeadLetterTopicTheOffsetIsHeld(t *testing.T) {
	s := newSink(t, func(id string, _ int) int {
		if id == "00001" {
			return 400
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.DeadLetter = "nowhere"
	b.produce(events(4, 4)...)
	sub, stop := b.run()
	until(t, "the others delivered", func() bool { return len(s.accepted()) == 3 })
	b.untilCommitted(1)
	until(t, "the reason shown", func() bool {
		ps := sub.Status()
		return len(ps) == 1 && ps[0].Blocking != nil && ps[0].Blocking.Offset == 1 && strings.Contains(ps[0].Blocking.Reason, "topic nowhere does not exist")
	})
	stop()
	if offset, _ := b.committed(); offset != 1 {
		t.Errorf("committed %d, want 1: the hole", offset)
	}
}

func TestAStopLetsPostsInFlightFinishAndCommitsThem(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := newSink(t, func(id string, _ int) int {
		if id == "00000" {
			close(entered)
			<-release
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.Order = pump.ByPartition
	b.produce(events(5, 1)...)
	_, stop := b.run()
	<-entered
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("it stopped with a post in flight")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	<-stopped
	if offset, _ := b.committed(); offset != 1 {
		t.Errorf("committed %d, want 1", offset)
	}
	if got := s.accepted(); len(got) != 1 {
		t.Errorf("%v were posted, want only the one in flight", got)
	}
}

func TestADeadSinkIsProbedByOne(t *testing.T) {
	var mu sync.Mutex
	down := true
	s := newSink(t, func(string, int) int {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return 503
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.Backoff.Max = 20 * time.Millisecond
	b.produce(events(500, 100)...)
	_, stop := b.run()
	until(t, "some probes", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.posts) > b.cfg.Concurrency+20 })
	s.mu.Lock()
	tried := len(s.tries)
	s.mu.Unlock()
	if tried > 3*b.cfg.Concurrency {
		t.Errorf("%d events were tried at a dead sink, want about as many as are in flight", tried)
	}
	mu.Lock()
	down = false
	mu.Unlock()
	b.untilCommitted(500)
	stop()
	if len(b.letters()) != 0 {
		t.Errorf("%d dead letters: a dead sink is not the events' fault", len(b.letters()))
	}
	inOrder(t, s)
}

func TestADeadLetterDoesNotWaitForTheSink(t *testing.T) {
	s := newSink(t, func(string, int) int { return 503 })
	b := setup(t, s.server.URL)
	b.cfg.Backoff = deliver.Backoff{Initial: 1000 * time.Hour, Multiplier: 1, Max: 1000 * time.Hour}
	b.produce(events(30, 30)...)
	_, stop := b.run()
	until(t, "the sink down", func() bool { return s.total() >= 3 })
	b.produce(&kgo.Record{Topic: "events", Key: []byte("other"), Value: []byte("not json")})
	until(t, "the malformed record dead-lettered while the sink is down", func() bool { return len(b.letters()) == 1 })
	stop()
}

func TestADeadSinkIsBlockingAtEveryLook(t *testing.T) {
	s := newSink(t, func(string, int) int { return 503 })
	b := setup(t, s.server.URL)
	b.cfg.Backoff.Max = 20 * time.Millisecond
	b.produce(events(50, 50)...)
	sub, stop := b.run()
	blocking := func() *pump.Block {
		if ps := sub.Status(); len(ps) == 1 {
			return ps[0].Blocking
		}
		return nil
	}
	until(t, "blocking", func() bool { return blocking() != nil })
	before := s.total()
	until(t, "many looks between and during probes", func() bool {
		if blocking() == nil {
			t.Fatal("blocking = null while the sink is down")
		}
		return s.total() > before+20
	})
	stop()
}

// 24 partitions of compressed records and a budget of one megabyte: a
// subscription whose sink is dead holds what it may, and the other goes on.
func TestASmallBudgetIsEnoughForMany(t *testing.T) {
	const partitions, each = 24, 50
	dead := newSink(t, func(string, int) int { return 503 })
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, dead.server.URL)
	if err := kafka.EnsureTopic(t.Context(), b.client, "many", partitions, true); err != nil {
		t.Fatal(err)
	}
	var recs []*kgo.Record
	for i := range partitions * each {
		rec := event(fmt.Sprintf("%05d", i), fmt.Sprintf("k%d", i%500))
		rec.Topic, rec.Partition = "many", int32(i%500%partitions)
		rec.Value = append(rec.Value[:len(rec.Value)-1], fmt.Sprintf(`,"data":%q}`, strings.Repeat("x", 10_000))...)
		recs = append(recs, rec)
	}
	b.produce(recs...)
	b.cfg.Topic, b.budget = "many", 1<<20
	b.cfg.Backoff.Max = 100 * time.Millisecond
	budget := pump.NewBudget(b.budget)
	b.shared = budget
	_, stopDead := b.run()
	until(t, "the dead sink tried", func() bool { return dead.total() > 0 })
	b.cfg.Name, b.cfg.Group, b.cfg.Sink = "living", "living", s.server.URL
	_, stop := b.run()
	until(t, "everything delivered to the living sink", func() bool { return len(s.accepted()) >= partitions*each })
	stop()
	stopDead()
	inOrder(t, s)
}

func TestPauseHoldsAndResumeGoesOn(t *testing.T) {
	s := newSink(t, func(id string, try int) int {
		if id == "00002" && try == 1 {
			return 410 // wants no more
		}
		return 200
	})
	b := setup(t, s.server.URL)
	b.cfg.Order = pump.ByPartition
	b.produce(events(5, 5)...)
	sub, stop := b.run()
	until(t, "suspended by 410", func() bool { return sub.View(t.Context()).State == "paused" })
	if got := s.accepted(); len(got) != 2 {
		t.Errorf("accepted %v before the pause", got)
	}
	_ = sub.Resume(t.Context(), "done", "test")
	b.untilCommitted(5)
	stop()
}
