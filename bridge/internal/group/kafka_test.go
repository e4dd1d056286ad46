package group_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/describegroups"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// The tests of this file run in real time, on the embedded broker and with KAFKA_REAL=1 on
// Apache Kafka: what the tests in virtual time show must hold there too.

// live is a member in real time. Its handler sends each session to sessions.
type live struct {
	*group.Member
	t         *testing.T
	cfg       group.Config
	sessions  chan *group.Session
	atBegin   func(*group.Session) // instead of sessions
	atEnd     func(context.Context, *group.Session) error
	handler   group.Handler // instead of all of these
	transport *kafka.Transport
	conns     conns
	dead      atomic.Bool // no connection succeeds
	killed    chan struct{}
	handling  sync.Mutex // held by the handler
	cancel    context.CancelFunc
	done      chan error
}

func join(t *testing.T, brokers []string, topic, instance string, options ...func(*live)) *live {
	t.Helper()
	cfg := kafka.Config{Brokers: brokers, ClientID: "bridge"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{
		t: t, transport: transport, sessions: make(chan *group.Session, 100),
		killed: make(chan struct{}), done: make(chan error, 1),
	}
	dial := transport.Dial
	transport.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if l.dead.Load() {
			return nil, errors.New("process is dead")
		}
		c, err := dial(ctx, network, address)
		if err == nil {
			l.conns.add(c)
		}
		return c, err
	}
	l.cfg = group.Config{
		Client: kafka.NewClient(cfg, transport), Group: "g-" + topic, Topic: topic, InstanceID: instance,
		SessionTimeout: 6 * time.Second, Heartbeat: 200 * time.Millisecond, Refresh: 200 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("instance", instance),
	}
	for _, o := range options {
		o(l)
	}
	l.Member = group.New(l.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		handle := l.handle
		if l.handler != nil {
			handle = l.handler
		}
		l.done <- l.Run(ctx, handle)
		close(l.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-l.done
		transport.Close()
	})
	return l
}

// await waits until the test closes done, or has failed.
func await(t *testing.T, done <-chan struct{}) {
	select {
	case <-done:
	case <-t.Context().Done():
	}
}

func (l *live) handle(ctx context.Context, s *group.Session) error {
	l.handling.Lock()
	defer l.handling.Unlock()
	select {
	case <-l.killed:
		return nil
	default:
	}
	if l.atBegin != nil {
		l.atBegin(s)
	} else {
		l.sessions <- s
	}
	<-ctx.Done()
	if l.atEnd == nil {
		return nil
	}
	return l.atEnd(context.WithoutCancel(ctx), s)
}

// next returns the next session with this number of partitions.
func (l *live) next(partitions int) *group.Session {
	l.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case s := <-l.sessions:
			if len(s.Partitions) == partitions {
				return s
			}
		case <-deadline:
			state, err := l.State()
			l.t.Fatalf("no session with %d partitions after a minute: %v, %v", partitions, state, err)
		}
	}
}

// draining waits until the handler's context has ended and the handler drains.
func (l *live) draining() {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		state, err := l.State()
		if state == group.Draining {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("not draining after a minute: %v, %v", state, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// quiet checks that no new generation begins for a while.
func (l *live) quiet(d time.Duration) {
	l.t.Helper()
	select {
	case s := <-l.sessions:
		l.t.Errorf("rebalance to generation %d, partitions %v", s.Generation, ids(s))
	case <-time.After(d):
	}
}

func (l *live) stop() {
	l.t.Helper()
	l.cancel()
	if err := <-l.done; err != nil {
		l.t.Error(err)
	}
}

// kill ends the member as a SIGKILL does: its connections close, and it does not leave the
// group.
func (l *live) kill() {
	close(l.killed)
	l.sever()
	l.cancel()
}

// cut disconnects the member from the brokers for a while.
func (l *live) cut(away time.Duration) {
	l.sever()
	time.AfterFunc(away, func() {
		select {
		case <-l.killed:
		default:
			l.dead.Store(false)
		}
	})
}

func (l *live) sever() {
	l.dead.Store(true)
	l.transport.CloseIdleConnections()
	for _, c := range l.conns.all() {
		_ = c.Close()
	}
}

func TestKafkaHandOver(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 5)
	drained := make(chan struct{})
	a := join(t, c.Brokers, topic, "", func(l *live) {
		l.atEnd = func(ctx context.Context, s *group.Session) error {
			await(t, drained)
			return s.Commit(ctx, map[int]group.Offset{1: {Offset: 5, Metadata: "during the rebalance"}})
		}
	})
	s := a.next(5)
	large := strings.Repeat("m", 4096)
	if err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 0, Metadata: large}, 4: {Offset: 3}}); err != nil {
		t.Fatal(err)
	}
	b := join(t, c.Brokers, topic, "")
	a.draining()
	b.quiet(time.Second) // several heartbeats: the group waits for the drain
	close(drained)
	first, second := <-a.sessions, <-b.sessions
	all := append(slices.Clone(first.Partitions), second.Partitions...)
	slices.SortFunc(all, func(a, b group.Partition) int { return a.ID - b.ID })
	want := []group.Partition{{ID: 0, Metadata: large}, {ID: 1, Offset: 5, Metadata: "during the rebalance"},
		{ID: 2, Offset: -1}, {ID: 3, Offset: -1}, {ID: 4, Offset: 3}}
	if !slices.Equal(all, want) || first.MemberID != s.MemberID {
		t.Errorf("member %s, was %s, partitions %+v, want %+v", first.MemberID, s.MemberID, all, want)
	}
	if err := s.Commit(t.Context(), map[int]group.Offset{2: {Offset: 9}}); !errors.Is(err, group.ErrFenced) {
		t.Errorf("Commit in the old generation = %v, want ErrFenced", err)
	}
	b.stop()
	a.next(5)
	a.stop()
}

func TestKafkaStatic(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 4)
	a := join(t, c.Brokers, topic, "bridge-0")
	a.next(4)
	b := join(t, c.Brokers, topic, "bridge-1")
	before, other := a.next(2).Claim, b.next(2).Claim
	restart := func(l *live, instance string, was group.Claim) *live {
		began := time.Now()
		l.kill()
		l = join(t, c.Brokers, topic, instance)
		s := l.next(2)
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s got its partitions back after %v, want at most 1s", instance, took)
		}
		if s.Generation != was.Generation || !slices.Equal(s.Partitions, was.Partitions) {
			t.Errorf("claim %+v, was %+v", s.Claim, was)
		}
		return l
	}
	a = restart(a, "bridge-0", before) // the leader
	b = restart(b, "bridge-1", other)
	a.quiet(time.Second)

	younger := join(t, c.Brokers, topic, "bridge-1")
	younger.next(2)
	if err := <-b.done; !errors.Is(err, group.ErrReplaced) {
		t.Errorf("Run of the replaced member = %v, want ErrReplaced", err)
	}
	younger.stop()
	a.next(4)
	a.stop()
}

// TestKafkaStaticStop: a static member that stops leaves the group. In a rolling update the
// pod with the new name joins first and gets all partitions when the old one has left; no
// member waits for a session timeout.
func TestKafkaStaticStop(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 4)
	long := func(l *live) { l.cfg.SessionTimeout = time.Minute }
	old := join(t, c.Brokers, topic, "bridge-0", long)
	old.next(4)
	soon := func(what string, began time.Time) {
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s after %v, with a heartbeat of 0.2s", what, took)
		}
	}
	began := time.Now()
	young := join(t, c.Brokers, topic, "bridge-1", long)
	young.next(2)
	old.next(2)
	soon("joined", began)
	began = time.Now()
	old.stop()
	young.next(4)
	soon("took over", began)

	// A member that stops before it learns that another uses its instance id.
	slow := func(l *live) { l.cfg.SessionTimeout, l.cfg.Heartbeat = time.Minute, 20*time.Second }
	twin := join(t, c.Brokers, topic, "bridge-2", slow)
	twin.next(2)
	young.next(2)
	younger := join(t, c.Brokers, topic, "bridge-2", long)
	younger.next(2)
	twin.stop()
	younger.quiet(time.Second)
	younger.stop()
	young.next(4)
	young.stop()
}

// TestKafkaStaticStopWhileJoining: in its first join a static member is known by its
// instance id alone. When it stops before the answer, the group does not wait for it.
func TestKafkaStaticStopWhileJoining(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 2)
	drained := make(chan struct{})
	a := join(t, c.Brokers, topic, "", func(l *live) {
		l.cfg.SessionTimeout = time.Minute
		l.atEnd = func(context.Context, *group.Session) error { await(t, drained); return nil }
	})
	a.next(2)
	b := join(t, c.Brokers, topic, "bridge-0", func(l *live) { l.cfg.SessionTimeout = time.Minute })
	a.draining()
	b.stop()
	close(drained)
	began := time.Now()
	a.next(2)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("waited %v for a member that had stopped", took)
	}
	a.quiet(time.Second)
	a.stop()
}

func TestKafkaMorePartitions(t *testing.T) {
	for _, instance := range []string{"", "bridge-0"} {
		c := kafkatest.Start(t)
		topic, client := c.Topic(t, 1), c.Client(t)
		grow := func(n int32) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			res, err := client.CreatePartitions(ctx, &kafkago.CreatePartitionsRequest{
				Topics: []kafkago.TopicPartitionsConfig{{Name: topic, Count: n}}})
			if err != nil || res.Errors[topic] != nil {
				t.Fatal(err, res)
			}
		}
		l := join(t, c.Brokers, topic, instance)
		l.next(1)
		grow(3)
		l.next(3)
		l.kill()
		grow(4) // while the member is down
		l = join(t, c.Brokers, topic, instance)
		l.next(4)
		l.quiet(2 * time.Second)
		l.stop()
	}
}

// TestKafkaBrokerGone: members keep their generation while their broker is stopped or
// killed and comes back. On a real one, which restarts each session when it loads the group,
// that holds for longer than the session timeout.
func TestKafkaBrokerGone(t *testing.T) {
	c := kafkatest.StartOwn(t)
	topic := c.Topic(t, 2)
	dynamic := join(t, c.Brokers, topic, "")
	dynamic.next(2)
	static := join(t, c.Brokers, topic, "bridge-0")
	s := dynamic.next(1)
	static.next(1)
	away := time.Second
	if kafkatest.IsReal() {
		away = 8 * time.Second
	}
	for what, end := range map[string]func() error{"stopped": c.Stop, "killed": c.Kill} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(away)
		if err := c.Restart(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := s.Commit(ctx, map[int]group.Offset{s.Partitions[0].ID: {Offset: 7}}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
		dynamic.quiet(2 * time.Second)
		static.quiet(0)
	}
	dynamic.stop()
	static.stop()
}

// TestKafkaJava shares a group with Java's consumer, which leads it in one round and
// follows in the other. That consumer comes with a real Kafka; without one,
// TestOtherClients uses another.
func TestKafkaJava(t *testing.T) {
	if !kafkatest.IsReal() {
		return
	}
	r := kafkatest.StartReal(t)
	c := kafkatest.Cluster{Brokers: r.Brokers}
	for _, oursFirst := range []bool{true, false} {
		topic := c.Topic(t, 4)
		var ours *live
		if oursFirst {
			ours = join(t, r.Brokers, topic, "")
			ours.next(4)
		}
		ctx, cancel := context.WithCancel(t.Context())
		java := make(chan error, 1)
		go func() {
			_, err := r.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", r.Brokers[0],
				"--topic", topic, "--group", "g-"+topic, "--timeout-ms", "8000")
			java <- err
		}()
		if !oursFirst {
			awaitMember(t, c.Client(t), "g-"+topic)
			ours = join(t, r.Brokers, topic, "")
		}
		ours.next(2)
		ours.next(4) // it leaves after its timeout
		cancel()
		<-java
		ours.stop()
	}
}

func awaitMember(t *testing.T, client *kafkago.Client, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		res, err := client.Transport.RoundTrip(ctx, client.Addr, &describegroups.Request{Groups: []string{name}})
		if err == nil {
			if g := res.(*describegroups.Response).Groups[0]; len(g.Members) == 1 && g.GroupState == "Stable" {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no stable member in group %s after a minute", name)
}
