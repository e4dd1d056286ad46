// Package group implements membership in a Kafka consumer group.
//
// A Member joins the group of one topic, passes its share of the partitions to a handler,
// and keeps the membership alive until the handler returns. That includes the time in
// which the handler drains after a rebalance or a stop, so that finished work can still be
// committed and no other member works on the same partitions meanwhile. The membership
// survives every error and every missing answer of the coordinator; it ends only when the
// coordinator answers that the member is unknown or the generation is over.
//
// It uses the classic group protocol with the range assignor of Java consumers, or with a
// sticky one of its own.
// kafka.Reader and kafka.ConsumerGroup are not used: they commit for partitions that they
// have lost, stop heartbeating when the drain begins, and drop their member id at the
// first error of a coordinator.
//
// # Rebalances
//
// With Config.Sticky, a rebalance interrupts only what moves (after KIP-429, which Java's
// consumers call cooperative). A member joins again with its handler at work, and tells the
// leader what it works on. The leader moves as little as an even distribution takes and
// gives nobody a partition that another member has claimed. When the new assignment lacks a
// partition that the member works on, it drains that one, commits, and joins again without
// claiming it; only the plan of that second rebalance gives it to its new owner, which so
// begins at the last commit. All others were never touched.
//
// Nobody else can have a claimed partition: each plan is made from the claims of all members
// of its generation. A member that is not among them has left, after its handlers returned,
// or was removed, which it is told by the next answer and can tell by its clock (Confirmed),
// as without Sticky.
//
// The protocol is the members' common choice. When one knows only range (a Java consumer, an
// older bridge during an update) the coordinator chooses range from then on, and every
// member drains everything before it joins again. In the one rebalance that changes to range
// members still work on what they claim; a leader of this package withholds that there, too,
// and marks its plans. A plan without the mark that takes something away ends the session at
// once, without a drain: the new owner may have begun. That takes a leader that dies in
// the very rebalance in which the first foreign member joins.
//
// # Restarts
//
// A member that stops leaves the group, and the others take over at once. After a SIGKILL
// it cannot leave: without an InstanceID the restarted process is a new member and must
// wait until the session timeout has removed the dead one. In addition, Apache Kafka makes
// the first member of an empty group wait for group.initial.rebalance.delay.ms (3 s).
//
// An InstanceID makes the member static. That matters after a SIGKILL only: a process
// started again under the same id gets its old partitions back at once, in the same
// generation, and the others notice nothing. If it does not come back, its partitions are
// idle until the session timeout.
package group

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/retry"
)

// Config configures a Member.
type Config struct {
	// Client reaches the brokers; only its Addr and Transport are used. The transport's
	// ClientID becomes the beginning of the member id.
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

	// Heartbeat is the interval of heartbeats and so the delay with which a rebalance is
	// noticed. 3 s when zero, and at most a third of SessionTimeout.
	Heartbeat time.Duration

	// Refresh is how often the leader looks for new partitions of the topic. 5 s when
	// zero.
	Refresh time.Duration

	// Sticky lets the handler go on through a rebalance with the partitions that stay; see
	// Rebalances in the package comment. It then uses Session.Each.
	Sticky bool

	Log *slog.Logger

	// OnRebalance, when set, is called at the start of each generation except the first.
	OnRebalance func()
}

// State is what a Member is doing.
type State int

// The states of a Member, in the order in which it passes through them.
const (
	Idle     State = iota // Run has not been called
	Joining               // no partitions yet
	Stable                // the handler runs
	Draining              // the handler's context has ended and it has not returned
	Stopped               // Run has returned
)

func (s State) String() string {
	return [...]string{"idle", "joining", "stable", "draining", "stopped"}[s]
}

// Partition is one partition of a claim, with the group's last commit for it.
type Partition struct {
	ID       int
	Offset   int64 // -1: nothing was committed
	Metadata string
}

// Claim is what a generation of the group assigns to this member: for a Session, the first.
type Claim struct {
	Generation int
	MemberID   string
	Partitions []Partition // ascending; may be empty
}

// Offset is what to commit for a partition.
type Offset struct {
	Offset   int64
	Metadata string
	Short    string // stored instead when the broker refuses Metadata for its size
}

// Handler works on the partitions of a session (see Session.Each) until ctx ends, then finishes the work in
// progress, commits, and returns. The cause of ctx is ErrRebalance or ErrFenced; with any
// other cause the member is stopping.
type Handler func(ctx context.Context, s *Session) error

// Member is one member of a group. Use New.
type Member struct {
	cfg   Config
	began time.Time

	// Owned by the goroutine of Run.
	id          string // kept through every error except that it is unknown
	generation  int32  // the last one of id; -1 for none
	unnamed     bool   // a static member's first join is unanswered: the group may have given it an id that did not arrive
	generations int

	mu     sync.Mutex
	state  State
	err    error          // the last failure; nil after the next success
	since  time.Time      // the first failure since the last success
	failed rate.Sometimes // throttles the warning about it
	warned bool           // since the last success
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
	return &Member{cfg: cfg, began: time.Now(), generation: -1, failed: rate.Sometimes{Interval: warnEvery}}
}

// State returns what the member is doing, and the last failure, or nil if a request has
// succeeded since.
func (m *Member) State() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.err
}

// unheardFor is longer than a coordinator takes to move or to restart, and longer than the
// session timeout, after which nothing new is begun (Session.Confirmed).
const unheardFor = 30 * time.Second

// Ready is nil when the member has its partitions and has heard of its coordinator lately.
func (m *Member) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != Stable {
		return errors.Join(fmt.Errorf("group %s: %s", m.cfg.Group, m.state), m.err)
	}
	if away := time.Since(m.since); m.err != nil && away >= unheardFor {
		return fmt.Errorf("group %s: no answer from Kafka for %v: %w", m.cfg.Group, away.Round(time.Second), m.err)
	}
	return nil
}

// Run keeps the member in the group until ctx ends: it joins, calls handle once per
// generation, heartbeats until handle returns, and only then joins again or, when ctx has
// ended, leaves.
//
// It returns nil after ctx has ended. Otherwise it returns ErrReplaced, or the first error
// of handle that is neither ErrFenced nor the end of its context. All other failures,
// unavailable brokers above all, are retried without limit and reported by State.
func (m *Member) Run(ctx context.Context, handle Handler) error {
	defer m.setState(Stopped)
	err := m.run(ctx, handle)
	if errors.Is(err, ErrReplaced) {
		return err // the membership belongs to the other process now
	}
	if lerr := m.leave(context.WithoutCancel(ctx)); lerr != nil {
		m.cfg.Log.Warn("consumer group not left, its partitions are idle until the session timeout",
			"group", m.cfg.Group, "topic", m.cfg.Topic, "err", lerr)
	}
	return err
}

func (m *Member) run(ctx context.Context, handle Handler) error {
	for {
		m.setState(Joining)
		g, err := m.join(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a failure while stopping has no consequence
		}
		if err != nil {
			return err
		}
		if err := m.serve(ctx, g, handle); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is not a failure
		}
	}
}

// serve runs the handler of one generation. It returns nil when the member should join
// again.
func (m *Member) serve(ctx context.Context, g generation, handle Handler) error {
	work, revoke := context.WithCancelCause(ctx)
	defer revoke(nil)
	s := newSession(m, work, g, revoke)

	// Heartbeats outlive ctx: they end when the handler has returned, not when it is
	// asked to.
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.heartbeat(beat) })
	// With heartbeats running, since a coordinator may take longer than a session to load
	// its offsets.
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
		_ = retry.Pause(ctx, m.cfg.Heartbeat) // a handler that returns at once must not spin; run checks ctx
	}
	return nil
}

// begin reports that a generation has begun.
func (m *Member) begin(s *Session) {
	m.setState(Stable)
	m.cfg.Log.Info("consumer group joined", "group", m.cfg.Group, "topic", m.cfg.Topic,
		"generation", s.Generation, "member", s.MemberID, "partitions", s.g.assigned)
	if m.generations++; m.generations > 1 && m.cfg.OnRebalance != nil {
		m.cfg.OnRebalance()
	}
}

// rebalanced reports a generation that began while the handler was at work.
func (m *Member) rebalanced(g generation, gained, revoked []int) {
	m.cfg.Log.Info("consumer group rebalanced", "group", m.cfg.Group, "topic", m.cfg.Topic,
		"generation", g.number, "partitions", g.assigned, "gained", gained, "revoked", revoked)
	if m.generations++; m.cfg.OnRebalance != nil {
		m.cfg.OnRebalance()
	}
}

// leave removes the member from the group, so that the others need not wait for its
// session to time out. It also ends a join that is still pending at the broker.
func (m *Member) leave(ctx context.Context) error {
	if m.id == "" && !m.unnamed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	for backoff := newBackoff(); ; {
		err := m.leaveOnce(ctx)
		if err == nil || errors.Is(err, kafkago.UnknownMemberId) {
			m.forget()
			m.unnamed = false
			return nil
		}
		if refused(err) || backoff.Wait(ctx) != nil {
			return fmt.Errorf("leave group %s: %w", m.cfg.Group, err)
		}
	}
}

// leaveOnce identifies the member by its member id, even if it is static: an instance id
// would remove whoever uses it now (the embedded broker checks nothing else), and that may
// be another process of which this one does not know yet. The instance id is used only
// when there is no member id.
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

// forget drops an id that the coordinator does not know.
func (m *Member) forget() { m.id, m.generation = "", -1 }

func (m *Member) replaced() error {
	return fmt.Errorf("group %s, instance %s: %w", m.cfg.Group, m.cfg.InstanceID, ErrReplaced)
}

func (m *Member) setState(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
}

// fail keeps a failure for State and logs it, at most once in ten seconds: requests to an
// unavailable broker fail several times a second.
func (m *Member) fail(doing string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.since = time.Now()
	}
	m.err = fmt.Errorf("%s: %w", doing, err)
	m.failed.Do(func() {
		m.warned = true
		m.cfg.Log.Warn("consumer group coordinator unavailable, retrying",
			"group", m.cfg.Group, "topic", m.cfg.Topic, "err", m.err)
	})
}

func (m *Member) succeed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = nil
	if m.warned {
		m.warned = false
		m.cfg.Log.Info("consumer group coordinator available again", "group", m.cfg.Group, "topic", m.cfg.Topic)
	}
}

const (
	leaveTimeout = 3 * time.Second
	warnEvery    = 10 * time.Second

	// The first pause between retries is short, since each pooled connection to a
	// restarted broker fails once.
	backoffMin = 20 * time.Millisecond
	backoffMax = 500 * time.Millisecond
)

func newBackoff() *retry.Backoff { return &retry.Backoff{Min: backoffMin, Max: backoffMax} }

// requestTimeout leaves room for a second try within a session.
func (m *Member) requestTimeout() time.Duration {
	return min(max(m.cfg.Heartbeat, time.Second), m.cfg.SessionTimeout/3)
}

// send sends one request. It always sets a deadline: a cancelled context releases the
// caller, but only a deadline releases the connection.
func send[R protocol.Message](ctx context.Context, m *Member, timeout time.Duration, req protocol.Message) (res R, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := m.cfg.Client.Transport
	if transport == nil {
		transport = kafkago.DefaultTransport
	}
	answer, err := transport.RoundTrip(ctx, m.cfg.Client.Addr, req)
	if err != nil {
		// The broker is gone, or the coordinator is one that the transport does not know
		// yet. The pool would give out its other dead connections one by one, and look for
		// the coordinator at its next refresh; a new pool looks at once.
		if t, ok := transport.(interface{ CloseIdleConnections() }); ok && !errors.Is(err, context.Canceled) {
			t.CloseIdleConnections()
		}
		return res, err
	}
	return answer.(R), nil
}

// beat sends one heartbeat. In a generation other than the group's it only checks whether
// the member is known, and does not renew the session.
func (m *Member) beat(ctx context.Context, generation int32) (*heartbeatResponse, error) {
	return send[*heartbeatResponse](ctx, m, m.requestTimeout(), &heartbeatRequest{
		GroupID: m.cfg.Group, GenerationID: generation, MemberID: m.id, GroupInstanceID: m.cfg.InstanceID,
	})
}
