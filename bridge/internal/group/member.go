// Package group is a member of a Kafka consumer group.
//
// A Member joins the group of one topic, hands its share of the partitions to a handler,
// and keeps the membership alive until the handler has returned: also while the handler
// drains after a rebalance or a stop, so that what it finished can still be committed and
// nobody else works on the same partitions meanwhile. The membership survives whatever the
// coordinator may answer or fail to answer; only its word that the member is unknown, or
// the generation over, ends it.
//
// It speaks the classic group protocol with the range assignor of Java consumers.
// kafka.Reader and kafka.ConsumerGroup are not used: they commit for partitions that are
// gone, stop heartbeating when the drain begins, and forget their member id at the first
// error of a coordinator.
//
// # Restarts
//
// A member that stops leaves the group, and the others take over at once. After a SIGKILL
// it cannot leave: without an InstanceID its successor is a stranger and must wait until
// the session timeout has removed the dead member. Apache Kafka makes the first member of
// an empty group wait for group.initial.rebalance.delay.ms (3 s) besides.
//
// An InstanceID makes the member static. That is for the SIGKILL alone: started again under
// the same id it is given its old partitions at once, in the same generation; the others
// notice nothing. If it stays away, its partitions wait for it until the session timeout.
package group

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Config says which group to join and how.
type Config struct {
	// Client reaches the brokers: its Addr and Transport are used. The transport's
	// ClientID is the beginning of the member id.
	Client *kafkago.Client

	Group string
	Topic string

	// InstanceID makes the member static; see Restarts in the package comment. Each
	// process of a group needs its own.
	InstanceID string

	// SessionTimeout is how long the coordinator waits for a heartbeat before it gives the
	// partitions to others. 10 s when zero.
	SessionTimeout time.Duration

	// RebalanceTimeout is how long a handler may drain during a rebalance before the group
	// goes on without it. 30 s when zero.
	RebalanceTimeout time.Duration

	// Heartbeat is the interval of heartbeats, and with it how late a rebalance is
	// noticed. 3 s when zero, and at most a third of SessionTimeout.
	Heartbeat time.Duration

	// Refresh is how often the leader looks for new partitions of the topic. 5 s when
	// zero.
	Refresh time.Duration

	Log *slog.Logger

	// OnRebalance, when set, is called at the start of each generation but the first.
	OnRebalance func()
}

// State is what a Member is doing.
type State int

// The states of a Member, in the order of a life.
const (
	Idle     State = iota // Run was not called
	Joining               // no partitions yet
	Stable                // the handler runs
	Draining              // the handler was told to end and has not returned
	Stopped               // Run has returned
)

func (s State) String() string {
	return [...]string{"idle", "joining", "stable", "draining", "stopped"}[s]
}

// Partition is one partition of a claim, with what the group committed for it.
type Partition struct {
	ID       int
	Offset   int64 // -1: nothing was committed
	Metadata string
}

// Claim is what one generation of the group gave to this member.
type Claim struct {
	Generation int
	MemberID   string
	Partitions []Partition // ascending; may be empty
}

// Offset is what to commit for a partition.
type Offset struct {
	Offset   int64
	Metadata string
}

// Handler works on the partitions of a session until ctx ends, then finishes what it has
// begun, commits, and returns. The cause of ctx tells why it ended: ErrRebalance or
// ErrFenced; otherwise the member stops.
type Handler func(ctx context.Context, s *Session) error

// Member is one member of a group. Use New.
type Member struct {
	cfg   Config
	began time.Time

	// Owned by the goroutine of Run.
	id          string // kept over every error but one that says it is unknown
	generation  int32  // the last that id was given; -1 for none
	unnamed     bool   // a static member's first join is unanswered: the group may know it by an id it was not told
	generations int

	mu       sync.Mutex
	state    State
	err      error     // the last failure; nil after the next success
	reported time.Time // when a failure was last logged
	warned   bool      // since the last success
}

// New returns a member. It connects to nothing.
func New(cfg Config) *Member {
	cfg.SessionTimeout = cmp.Or(cfg.SessionTimeout, 10*time.Second)
	cfg.RebalanceTimeout = cmp.Or(cfg.RebalanceTimeout, 30*time.Second)
	cfg.Heartbeat = min(cmp.Or(cfg.Heartbeat, 3*time.Second), cfg.SessionTimeout/3)
	cfg.Refresh = cmp.Or(cfg.Refresh, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Member{cfg: cfg, began: time.Now(), generation: -1}
}

// State returns what the member is doing, and what is wrong: the last failure, nil when
// the coordinator has answered well since.
func (m *Member) State() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.err
}

// Run is a member of the group until ctx ends: it joins, calls handle once per generation,
// heartbeats until handle returns, and only then joins again or, when ctx has ended,
// leaves.
//
// It returns nil after ctx has ended. Otherwise it returns the first error of handle that
// is not ErrFenced or the end of its context, or ErrReplaced. All else, brokers that are
// away above all, is retried without end, and told by State.
func (m *Member) Run(ctx context.Context, handle Handler) error {
	defer m.setState(Stopped)
	err := m.run(ctx, handle)
	if errors.Is(err, ErrReplaced) {
		return err // the membership is another's now
	}
	if lerr := m.leave(context.WithoutCancel(ctx)); lerr != nil {
		m.cfg.Log.Warn("consumer group not left: its partitions wait for the session timeout",
			"group", m.cfg.Group, "topic", m.cfg.Topic, "error", lerr)
	}
	return err
}

func (m *Member) run(ctx context.Context, handle Handler) error {
	for {
		m.setState(Joining)
		g, err := m.join(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // what failed while stopping matters to nobody
		}
		if err != nil {
			return err
		}
		if err := m.serve(ctx, g, handle); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ctx was told to end: that is no failure
		}
	}
}

// serve runs the handler of one generation. It returns nil when the group is to be joined
// again.
func (m *Member) serve(ctx context.Context, g generation, handle Handler) error {
	work, revoke := context.WithCancelCause(ctx)
	defer revoke(nil)
	s := newSession(m, g, revoke)

	// Heartbeats outlive ctx: they end when the handler has returned, not when it is told
	// to.
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.heartbeat(beat) })
	// Under heartbeats, since a coordinator may take longer than a session to load its
	// offsets.
	partitions, err := m.committed(work, g.assigned)
	if err == nil {
		s.Partitions = partitions
		m.begin(s)
		wg.Go(func() {
			select {
			case <-work.Done():
				m.setState(Draining)
			case <-beat.Done():
			}
		})
		err = handle(work, s)
	}
	ended := work.Err() != nil
	stop()
	wg.Wait()

	switch lost := s.lostErr(); {
	case errors.Is(lost, kafkago.FencedInstanceID):
		return m.replaced()
	case errors.Is(lost, kafkago.UnknownMemberId):
		m.forget()
	}
	if err != nil && !errors.Is(err, ErrFenced) && !(ended && errors.Is(err, context.Canceled)) {
		return err
	}
	if !ended {
		pause(ctx, m.cfg.Heartbeat) // a handler that gives up at once must not spin
	}
	return nil
}

// begin tells that a generation has begun.
func (m *Member) begin(s *Session) {
	m.setState(Stable)
	m.cfg.Log.Info("consumer group joined", "group", m.cfg.Group, "topic", m.cfg.Topic,
		"generation", s.Generation, "member", s.MemberID, "partitions", s.g.assigned)
	if m.generations++; m.generations > 1 && m.cfg.OnRebalance != nil {
		m.cfg.OnRebalance()
	}
}

// leave takes the member out of the group, so that the others need not wait for its
// session to time out. It also ends a join that is still pending at the broker.
func (m *Member) leave(ctx context.Context) error {
	if m.id == "" && !m.unnamed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	for retry := (backoff{}); ; {
		err := m.leaveOnce(ctx)
		if err == nil || errors.Is(err, kafkago.UnknownMemberId) {
			m.forget()
			m.unnamed = false
			return nil
		}
		if refused(err) || !retry.wait(ctx) {
			return fmt.Errorf("leave group %s: %w", m.cfg.Group, err)
		}
	}
}

// leaveOnce names the member by its id, also a static one: an instance id would take out
// whoever has it by now (the embedded broker looks at nothing else), and another process
// may have it without this one having heard. Only where no id is known must it serve.
func (m *Member) leaveOnce(ctx context.Context) error {
	member := leaveMember{MemberID: m.id}
	if m.id == "" {
		member.GroupInstanceID = m.cfg.InstanceID
	}
	res, err := send[*leaveResponse](ctx, m, m.requestTimeout(), &leaveRequest{
		GroupID: m.cfg.Group,
		Members: []leaveMember{member},
	})
	if err != nil {
		return err
	}
	if err := codeError(res.ErrorCode); err != nil {
		return err
	}
	for _, r := range res.Members {
		if err := codeError(r.ErrorCode); err != nil {
			return err
		}
	}
	return nil
}

// forget gives up an id that the coordinator does not know.
func (m *Member) forget() { m.id, m.generation = "", -1 }

func (m *Member) replaced() error {
	return fmt.Errorf("group %s, instance %s: %w", m.cfg.Group, m.cfg.InstanceID, ErrReplaced)
}

func (m *Member) setState(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
}

// fail remembers a failure for State and logs it, one line in ten seconds at most: a
// broker that is away fails several times a second.
func (m *Member) fail(doing string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = fmt.Errorf("%s: %w", doing, err)
	now := time.Now()
	if now.Sub(m.reported) < reportEvery {
		return
	}
	m.reported, m.warned = now, true
	m.cfg.Log.Warn("consumer group coordinator does not serve, trying on",
		"group", m.cfg.Group, "topic", m.cfg.Topic, "error", m.err)
}

func (m *Member) succeed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = nil
	if m.warned {
		m.warned = false
		m.cfg.Log.Info("consumer group coordinator serves again", "group", m.cfg.Group, "topic", m.cfg.Topic)
	}
}

const (
	leaveTimeout = 3 * time.Second
	reportEvery  = 10 * time.Second
)

// requestTimeout leaves room for a second try within a session.
func (m *Member) requestTimeout() time.Duration {
	return min(max(m.cfg.Heartbeat, time.Second), m.cfg.SessionTimeout/3)
}

// send sends one request. It never waits without limit: a context that is cancelled frees
// the caller, but only a deadline frees the connection.
func send[R protocol.Message](ctx context.Context, m *Member, timeout time.Duration, req protocol.Message) (res R, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := m.cfg.Client.Transport
	if transport == nil {
		transport = kafkago.DefaultTransport
	}
	answer, err := transport.RoundTrip(ctx, m.cfg.Client.Addr, req)
	if err != nil {
		// The coordinator is a broker that the transport has not heard of. It would only
		// look for it at its leisure; a new pool looks at once.
		if t, ok := transport.(interface{ CloseIdleConnections() }); ok && errors.Is(err, kafkago.BrokerNotAvailable) {
			t.CloseIdleConnections()
		}
		return res, err
	}
	return answer.(R), nil
}

// beat sends one heartbeat. In another generation than the group's it tells whether the
// member is known, and is no sign of life.
func (m *Member) beat(ctx context.Context, generation int32) (*heartbeatResponse, error) {
	return send[*heartbeatResponse](ctx, m, m.requestTimeout(), &heartbeatRequest{
		GroupID: m.cfg.Group, GenerationID: generation, MemberID: m.id, GroupInstanceID: m.cfg.InstanceID,
	})
}

// backoff is the pause between tries. The first is short, since each pooled connection to
// a restarted broker fails once.
type backoff struct{ next time.Duration }

const (
	firstPause = 20 * time.Millisecond
	longPause  = 500 * time.Millisecond
)

func (b *backoff) delay() time.Duration {
	d := cmp.Or(b.next, firstPause)
	b.next = min(2*d, longPause)
	return d/2 + rand.N(d/2)
}

func (b *backoff) reset() { b.next = 0 }

// wait returns false when ctx has ended.
func (b *backoff) wait(ctx context.Context) bool { return pause(ctx, b.delay()) }

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
