package group_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/group"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	topic = "events"
	name  = "readers"
)

// world is a broker in the virtual time of one test.
type world struct {
	*kfake.Cluster
	t   *testing.T
	net *kfake.VirtualNetwork
	dir string // where the broker keeps what survives its restart
	out *logs

	members []*runner
}

// logs collects what the members log.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
	t   *testing.T
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	return l.t.Output().Write(b)
}

func (w *world) logged() string {
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	return w.out.buf.String()
}

// conns holds the connections of one member, so that a test can cut them.
type conns struct {
	mu   sync.Mutex
	open []net.Conn
}

func (c *conns) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conn)
}

func (c *conns) all() []net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.open)
}

// inWorld runs fn in virtual time with a broker whose topic has this number of partitions.
func inWorld(t *testing.T, partitions int32, fn func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: new(kfake.VirtualNetwork), dir: t.TempDir(), out: &logs{t: t}}
		w.start(w.dir, partitions)
		defer w.end()
		fn(t, w)
	})
}

func (w *world) start(dir string, partitions int32) {
	w.t.Helper()
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(w.net.Listen),
		kfake.SeedTopics(partitions, topic), kfake.DataDir(dir),
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Cluster = c
}

// end stops what a failed test has left running: a bubble waits for all its goroutines.
func (w *world) end() {
	for _, r := range w.members {
		if r.cancel != nil {
			r.drain = 0
			r.kill()
		}
	}
	w.Close()
}

// restart stops the broker for a while, then starts it on the same port with its data.
func (w *world) restart(away time.Duration) {
	w.Close()
	time.Sleep(away)
	w.start(w.dir, 0)
}

// runner is one member under test and what its handler saw.
type runner struct {
	*group.Member
	w         *world
	transport *kafkago.Transport
	cancel    context.CancelFunc
	conns     conns
	dead      atomic.Bool // no connection succeeds any more
	done      chan struct{}
	err       error

	drain   time.Duration // how long the handler continues after its context ended
	atBegin func(s *group.Session)
	atEnd   func(ctx context.Context, s *group.Session) error // called after the drain
	mu      sync.Mutex
	claims  []group.Claim
	causes  []error
	now     *group.Session // nil while no handler runs
}

func (w *world) member(instance string, options ...func(*group.Config, *runner)) *runner {
	r := &runner{w: w, done: make(chan struct{})}
	r.transport = &kafkago.Transport{Dial: r.dial, ClientID: "test", MetadataTTL: time.Second}
	cfg := group.Config{
		Client: &kafkago.Client{Addr: kafkago.TCP("localhost:9092"), Transport: r.transport},
		Group:  name, Topic: topic, InstanceID: instance,
		Log: slog.New(slog.NewTextHandler(w.out, nil)).With("m", instance),
	}
	for _, o := range options {
		o(&cfg, r)
	}
	r.Member = group.New(cfg)
	w.members = append(w.members, r)
	return r
}

func (r *runner) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if r.dead.Load() {
		return nil, errors.New("process is dead")
	}
	c, err := r.w.net.DialContext(ctx, network, address)
	if err == nil {
		r.conns.add(c)
	}
	return c, err
}

func drain(d time.Duration) func(*group.Config, *runner) {
	return func(_ *group.Config, r *runner) { r.drain = d }
}

func (r *runner) start() *runner {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		defer r.transport.CloseIdleConnections()
		r.err = r.Run(ctx, r.handle)
	}()
	return r
}

func (r *runner) handle(ctx context.Context, s *group.Session) error {
	r.mu.Lock()
	r.claims = append(r.claims, s.Claim)
	r.now = s
	r.mu.Unlock()
	if r.atBegin != nil {
		r.atBegin(s)
	}
	<-ctx.Done()
	select {
	case <-time.After(r.drain):
	case <-s.Lost():
	}
	var err error
	if r.atEnd != nil {
		err = r.atEnd(context.WithoutCancel(ctx), s)
	}
	r.mu.Lock()
	r.causes = append(r.causes, context.Cause(ctx))
	r.now = nil
	r.mu.Unlock()
	return err
}

// stop ends the member and returns what Run returned.
func (r *runner) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

// session waits until the handler runs in its nth generation; 1 is the first.
func (r *runner) session(n int) *group.Session {
	r.w.t.Helper()
	var s *group.Session
	r.until(func() bool {
		s = r.now
		return s != nil && len(r.claims) == n
	})
	return s
}

// until waits, in virtual time, until cond holds.
func (r *runner) until(cond func() bool) {
	r.w.t.Helper()
	for range 3000 {
		r.mu.Lock()
		ok := cond()
		r.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	state, err := r.State()
	r.w.t.Fatalf("condition not met after 150s: %v, %v, %d generations", state, err, r.generations())
}

func (r *runner) generations() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.claims)
}

func ids(s *group.Session) []int {
	var ids []int
	for _, p := range s.Partitions {
		ids = append(ids, p.ID)
	}
	return ids
}

func TestOneMember(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		r := w.member("").start()
		s := r.session(1)
		if got := ids(s); !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("partitions %v, want all three", got)
		}
		if s.Partitions[1].Offset != -1 {
			t.Errorf("offset %d, want -1 where nothing is committed", s.Partitions[1].Offset)
		}
		if err := s.Commit(t.Context(), map[int]group.Offset{1: {Offset: 7, Metadata: "tw1x"}}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := r.generations(); n != 1 {
			t.Errorf("%d generations in a minute without events, want 1", n)
		}
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if info := w.GroupInfo(name); len(info.Members) != 0 {
			t.Errorf("%d members left behind", len(info.Members))
		}

		again := w.member("").start()
		s = again.session(1)
		if p := s.Partitions[1]; p.Offset != 7 || p.Metadata != "tw1x" {
			t.Errorf("read %+v, want the committed offset 7 and metadata tw1x", p)
		}
		_ = again.stop()
	})
}

// TestJoinAndLeave: a second member gets its share after the first has drained, and gives
// it back when it leaves; no partition has two owners.
func TestJoinAndLeave(t *testing.T) {
	inWorld(t, 5, func(t *testing.T, w *world) {
		a := w.member("", drain(8*time.Second)).start()
		a.session(1)
		b := w.member("").start()
		began := time.Now()
		sb := b.session(1)
		if waited := time.Since(began); waited < 8*time.Second || waited > 12*time.Second {
			t.Errorf("the second member waited %v for a drain of 8s", waited)
		}
		sa := a.session(2)
		all := append(ids(sa), ids(sb)...)
		slices.Sort(all)
		if !slices.Equal(all, []int{0, 1, 2, 3, 4}) || len(ids(sb)) < 2 || len(ids(sb)) > 3 {
			t.Errorf("partitions %v and %v, want all five, shared out evenly", ids(sa), ids(sb))
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		began = time.Now()
		if got := ids(a.session(3)); len(got) != 5 {
			t.Errorf("partitions %v after the other left", got)
		}
		if waited := time.Since(began); waited > 12*time.Second {
			t.Errorf("partitions came back after %v", waited)
		}
		if err := a.stop(); err != nil {
			t.Error(err)
		}
		if !errors.Is(a.causes[0], group.ErrRebalance) {
			t.Errorf("cause %v, want ErrRebalance", a.causes[0])
		}
	})
}
