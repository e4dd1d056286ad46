// Package pump moves the events of one subscription from Kafka to its sink: per
// partition it fetches, filters, queues by key, posts, tracks and commits.
//
// # Order of effects
//
// An event is posted. Only when the sink has accepted it, or Kafka has
// acknowledged its dead letter, is its offset done; only offsets below which
// everything is done are committed. The process may die between any two steps:
//
//   - before or during the post: the event is fetched and posted again;
//   - after the 2xx, before the commit: it is posted again, unless the metadata
//     of a commit says that it is done; the sink knows the event's id;
//   - after the dead letter, before the commit: at most a second dead letter.
//
// Nothing is ever committed past an event that neither the sink nor the
// dead-letter topic has taken. Within a key the next event is posted only after
// the one before it is done, so that what is posted again comes in order, too.
//
// # Files
//
// partition.go is the loop; fetch.go reads and prepares records, window.go holds
// them in order per key, mode.go, wrap.go and foreign.go give them the form in which
// they are posted, schema.go reads data in Avro, post.go posts them, alone or in batches, span.go traces that, expiry.go knows when it
// is too late for that, attempt.go judges the answer, breaker.go tells a bad sink
// from a bad event, pace.go holds back posts that would be too many, and consent.go
// asks the sink before the first. letters.go writes dead letters, committer.go takes
// what is done and commits.go stores it for all partitions, seal.go holds partitions
// whose offset somebody else has committed, skip.go sets events aside for an
// operator, redrive.go makes the same loop work on dead letters, and pass.go is what
// that loop asks it. retention.go looks ahead to records that the
// topic deletes unread. status.go and metrics.go show all of it, steps.go tells the
// journal of each event, fault.go plays a sink that is broken: standing.go asks the
// brokers how the whole group stands, note.go tells the other replicas what only the
// owner of a partition knows, and view.go puts both together.
package pump

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/internal/webhook"
)

// Order is which events must not overtake each other.
type Order string

// Orders.
const (
	ByKey       Order = "key"       // one in flight per record key
	ByPartition Order = "partition" // one in flight
	None        Order = "none"
)

// Config is one subscription.
type Config struct {
	Name        string
	Group       string
	Topic       string
	Wrap        bool // the records are no CloudEvents: each becomes one
	Sink        string
	Signing     *webhook.Secrets // nil for unsigned posts
	Bearer      *token.Own       // nil for none
	Origin      string           // who asks the sink for its consent before the first post; "" not to ask
	Callback    string           // address under which the sink may agree later; "" for none
	Headers     *deliver.Headers // nil for none
	TLS         *deliver.TLS     // nil for the system's roots and no client certificate
	SinkAllow   []netip.Prefix   // link-local and metadata addresses that Sink may have
	Filters     []filter.Filter
	Mode        Mode
	AsIs        bool              // data in Avro is posted as it is
	Schemas     *registry.Schemas // for data in Avro otherwise; nil: such events wait
	Batch       Batch             // in the modes batch and auto
	Order       Order
	Concurrency int // posts in flight per partition
	Timeout     time.Duration
	Backoff     deliver.Backoff
	Attempts    int           // after which a retried event is exhausted
	For         time.Duration // after which an event is exhausted, whatever the cause
	Block       bool          // wait instead of dead-lettering what is refused or exhausted
	DeadLetter  string        // topic
	Rate        float64       // posts per second of this process, all partitions together; 0 for no limit

	Tracer *trace.Tracer // nil for no spans

	Journal *journal.Journal // is told of each step; nil for none
	Fault   *Fault           // acts as a bad sink while it is set; nil for never

	Gate *control.Gate    // shut while the subscription is paused; nil for one of its own, which forgets
	Keys func() seal.Keys // seal each commit; nil for none, and then any commit is trusted

	InstanceID   string // static membership; "" for none
	CreateTopics bool
	Partitions   int           // of topics it creates
	Drain        time.Duration // how long posts in flight may take after a stop or a rebalance
}

// Subscription delivers the events of one topic to one sink.
type Subscription struct {
	cfg     Config
	client  *kafkago.Client
	letters deadletter.Producer
	sink    *deliver.Client
	filters *filters
	budget  *Budget
	member  *group.Member
	metrics *Metrics
	spans   *trace.Consumer
	pace    *pace
	breaker *breaker
	log     *slog.Logger
	gate    *control.Gate
	pass    *Redrive      // nil: it delivers the events of the topic themselves
	passes  chan struct{} // held by the pass over its dead letters

	schemaless rate.Sometimes // one log line for many events that wait for their schemas
	standings  *standings
	consent    *consent
	workerIdle time.Duration

	retentionEvery time.Duration

	mu         sync.Mutex
	partitions map[int]*partition // this member's
	retained   []retained         // by partition; nil while another member leads, or nothing is known
	missing    error              // why it has not joined yet
	life       context.Context    //nolint:containedctx // of Run; nil before it
}

// New returns a subscription; it opens no connection.
func New(cfg Config, client *kafkago.Client, letters deadletter.Producer, budget *Budget, metrics *Metrics, log *slog.Logger) (*Subscription, error) {
	sink, err := deliver.New(deliver.Config{URL: cfg.Sink, Timeout: cfg.Timeout, Signing: cfg.Signing, Bearer: cfg.Bearer, Origin: cfg.Origin, Headers: cfg.Headers, TLS: cfg.TLS, Allow: cfg.SinkAllow})
	if err != nil {
		return nil, err
	}
	log = log.With("subscription", cfg.Name)
	s := &Subscription{cfg: cfg, client: client, letters: letters, sink: sink, budget: budget, metrics: metrics, pace: newPace(cfg.Rate), breaker: newBreaker(), consent: newConsent(), log: log, partitions: map[int]*partition{}}
	if s.gate = cfg.Gate; s.gate == nil {
		s.gate = control.Alone()
	}
	s.spans = cfg.Tracer.Consumer(cfg.Topic, cfg.Group, cfg.Name, cfg.Sink)
	s.passes = make(chan struct{}, 1)
	if s.filters, err = newFilters(cfg.Filters); err != nil {
		return nil, err
	}
	s.member = group.New(group.Config{
		Client: client, Group: cfg.Group, Topic: cfg.Topic, InstanceID: cfg.InstanceID, Sticky: true, Log: log,
		OnRebalance: func() { metrics.rebalances.WithLabelValues(cfg.Name).Inc() },
	})
	s.standings, s.workerIdle, s.retentionEvery = newStandings(), workerIdle, retentionEvery
	s.schemaless.Interval = 10 * time.Second
	return s, nil
}

// Run waits for the topics, joins the group and delivers until ctx ends; then
// it drains, commits and leaves.
func (s *Subscription) Run(ctx context.Context) error {
	defer s.sink.Close()
	s.mu.Lock()
	s.life = ctx
	s.mu.Unlock()
	s.metrics.add(s)
	defer s.metrics.drop(s)
	if s.awaitTopics(ctx) != nil || s.gate.Await(ctx) != nil {
		return nil // only the end of ctx ends the waiting
	}
	if err := s.awaitConsent(ctx); err != nil {
		return nil // as above
	}
	return s.member.Run(ctx, s.handle)
}

// awaitTopics returns when the topics are there. Brokers that are down and
// topics that are missing are logged, and waited for.
func (s *Subscription) awaitTopics(ctx context.Context) error {
	report := rate.Sometimes{Interval: 10 * time.Second}
	for {
		err := errors.Join(
			kafka.EnsureTopic(ctx, s.client, s.cfg.Topic, s.cfg.Partitions, s.cfg.CreateTopics),
			s.ensureDeadLetter(ctx))
		s.mu.Lock()
		s.missing = err
		s.mu.Unlock()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			report.Do(func() { s.log.Warn("waiting for Kafka", "topic", s.cfg.Topic, "err", err) })
		}
		if err := retry.Pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// ensureDeadLetter creates the topic if it may. A missing one does not keep
// events from being delivered: it is reported when the first letter cannot be written.
func (s *Subscription) ensureDeadLetter(ctx context.Context) error {
	if !s.cfg.CreateTopics {
		return nil
	}
	return kafka.EnsureTopic(ctx, s.client, s.cfg.DeadLetter, 1, true)
}

// handle serves a session: a loop for each partition, from when it is this
// member's until it has drained, and fetches and commits for all of them until then.
func (s *Subscription) handle(ctx context.Context, session *group.Session) error {
	feed, err := s.newFeed()
	if err != nil {
		return err
	}
	commits := newCommits(s, session)
	storing, stored := context.WithCancel(context.WithoutCancel(ctx))
	var worker sync.WaitGroup
	worker.Go(func() { feed.Run(ctx) })
	worker.Go(func() { commits.run(storing) })
	if s.pass == nil {
		worker.Go(func() { s.writeNotes(ctx, session) })
		worker.Go(func() { s.watchRetention(ctx) })
	}
	session.Each(ctx, func(ctx context.Context, claimed group.Partition) {
		p := newPartition(s, session, feed, commits, claimed)
		s.show(claimed.ID, p)
		defer s.show(claimed.ID, nil)
		commits.partitions.Add(1)
		defer commits.partitions.Add(-1)
		p.run(ctx)
	})
	stored()
	worker.Wait()
	return nil
}

// show makes a partition visible to operators; nil hides it.
func (s *Subscription) show(id int, p *partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.partitions, id)
		return
	}
	s.partitions[id] = p
}

// Ready is nil when the subscription has its partitions, may deliver, and has heard of
// Kafka in the last 30 s.
//
// Without Kafka a bridge does nothing of its work, whether it has just started or has run
// for weeks, so both are unready. Nothing is routed by it: events are fetched, and the
// Service carries only the admin API, whose pauses and repairs are kept in Kafka.
func (s *Subscription) Ready() error {
	if err := s.sink.Ready(); err != nil {
		return err
	}
	s.mu.Lock()
	missing := s.missing
	s.mu.Unlock()
	if missing != nil {
		return missing
	}
	if err := s.gate.Unread(); err != nil {
		return err
	}
	return s.member.Ready()
}

// WaitsFor says why a subscription does not run yet.
func (s *Subscription) WaitsFor(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = reason
}

// Pause stops new posts on all replicas, until Resume. With an error it is not
// known to have happened.
func (s *Subscription) Pause(ctx context.Context, reason, by string) error {
	return s.gate.Pause(ctx, reason, by)
}

// Resume lets posts go on, on all replicas.
func (s *Subscription) Resume(ctx context.Context, reason, by string) error {
	return s.gate.Resume(ctx, reason, by)
}

// Name is the subscription's.
func (s *Subscription) Name() string { return s.cfg.Name }
