package pump

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/retry"
)

// Redrive is one pass over the dead letters of a subscription, from the oldest
// open one to the end that the topic had when it began. The partition loop does
// it as it delivers events, with the dead-letter topic as its topic and the
// group's .dlq as its group; that group's commits say which letters are done.
//
// # Order of effects
//
// A selected letter is posted. Only when the sink has accepted it, or Kafka has
// acknowledged a new letter that says that it failed again, is the old letter
// done, and the next commit says so. The process may die between any two steps:
//
//   - before or during the post: the letter is open, the next redrive posts it;
//   - after the 2xx or the new letter, before the commit: the letter is still
//     open and is posted once more by the next redrive; the sink knows the
//     event's id. What is finished counts as in flight until it is marked, so of
//     a partition at most Concurrency letters are concerned.
//
// A letter that was not selected is never done: it holds the commit back, and
// what is done above it is in the commit's map. When the map is full the pass
// ends, before anything is posted that could not be marked.
//
// Two passes exclude each other, since each wants all partitions for itself in
// one generation of the group. One that has lost them, to a rebalance or because
// it was stopped too long, cannot commit any more and begins no post.
type Redrive struct {
	// Select chooses letters of the subscription. nil chooses none: the pass only
	// moves the commit over letters of other subscriptions.
	Select func(deadletter.Stored) bool
	// Ignore makes what is selected done without a post, for the reason and by whom it says.
	Ignore *Ignored
	Rate   float64 // posts per second beside the subscription's own limit; 0 for none

	mu         sync.Mutex
	progress   Progress
	firsts     map[int]int64 // of the topic, by partition
	ends       map[int]int64 // where the pass ends, by partition
	partitions map[int]passed
	over       map[int]bool // partitions that are through, in this generation
	failing    time.Time    // since when the sink has answered no post
	patience   time.Duration
	pace       *pace         // under Rate; owned by the loops
	session    time.Duration // timeout of the membership; 0 for the group's default
	stop       context.CancelCauseFunc
	full       string // where a map was full
	lost       error  // of the last commit
}

// passed is how far a partition is in this generation.
type passed struct {
	kept, inFlight, left int64
	keeps                bool // the letter before was kept
}

// Ignored is why letters are ignored.
type Ignored struct{ Reason, By string }

// Progress is how far a pass is.
type Progress struct {
	Delivered int64  `json:"delivered"` // accepted by the sink
	Failed    int64  `json:"failed"`    // a new letter was written
	Filtered  int64  `json:"filtered"`  // the subscription's filters do not want them any more
	Ignored   int64  `json:"ignored"`
	Open      int64  `json:"open"`    // letters of the subscription that were not selected
	InHand    int64  `json:"in_hand"` // read and not done yet
	Unread    int64  `json:"unread"`  // records of the topic, of whichever subscription
	Problem   string `json:"problem,omitempty"`
}

// Outcomes of taskwire_bridge_redriven_total.
var redriveOutcomes = []string{"delivered", "deadletter", "filtered", "ignored"}

// errMet says that two passes have joined the group at once.
var errMet = errors.New("another pass has joined the group")

// errEnded is the cause when the subscription does not run any more.
var errEnded = &RefusedError{"the configuration of the subscription has changed, or the bridge stops; ask again"}

// errThrough is the cause with which a complete pass ends.
var errThrough = errors.New("the pass is complete")

const (
	// otherPass is how long a pass waits for another one to end, or for the
	// session of a dead process to time out.
	otherPass = 20 * time.Second
	// passPatience is how long a sink may answer no post before a pass gives up.
	passPatience = 5 * time.Minute
)

// Redrive makes the pass. It returns nil when it has reached the end, a
// *RefusedError when it cannot be made or had to stop, and the cause of ctx's end.
func (s *Subscription) Redrive(ctx context.Context, r *Redrive) error {
	select {
	case s.passes <- struct{}{}:
		defer func() { <-s.passes }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.mu.Lock()
	r.patience, r.pace = min(passPatience, s.cfg.For), newPace(r.Rate)
	r.mu.Unlock()
	for met := (time.Time{}); ; {
		err := s.tryRedrive(ctx, r)
		if !errors.Is(err, errMet) {
			return err
		}
		// Both that have met leave; chance decides who comes back first.
		if met.IsZero() {
			met = time.Now()
		}
		if time.Since(met) > otherPass {
			return &RefusedError{"another bridge works on the dead letters of " + s.cfg.Name + "; wait until that is over"}
		}
		if err := retry.Pause(ctx, rand.N(2*time.Second)); err != nil {
			return err
		}
	}
}

func (s *Subscription) tryRedrive(ctx context.Context, r *Redrive) error {
	if why := s.Paused(); why != "" && r.posts() {
		return refusedPaused(why)
	}
	s.mu.Lock()
	missing, life := s.missing, s.life
	s.mu.Unlock()
	if missing != nil && r.posts() {
		return &RefusedError{fmt.Sprintf("the subscription does not deliver yet: %v", missing)}
	}
	of := deadletter.Group(s.cfg.Group)
	if err := s.awaitNoOther(ctx, r, of); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if life != nil { // its settings are not those of the subscription that comes after it
		defer context.AfterFunc(life, func() { stop(errEnded) })()
	}
	r.mu.Lock()
	r.stop, r.lost, r.full = stop, nil, ""
	r.mu.Unlock()
	child := s.child(r, of)
	err := child.member.Run(ctx, r.generation(child))
	if err == nil {
		err = context.Cause(ctx)
	}
	if !errors.Is(err, errThrough) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.lost != nil:
		return fmt.Errorf("what finished last is not marked and will be done again by the next redrive: %w", r.lost)
	case r.full != "":
		return &RefusedError{r.full}
	}
	var open int64
	for _, p := range r.partitions {
		open += p.kept
	}
	s.metrics.open.WithLabelValues(s.cfg.Name).Set(float64(open))
	return nil
}

// posts reports whether the pass posts anything.
func (r *Redrive) posts() bool { return r.Select != nil && r.Ignore == nil }

// child is the subscription as it works on its dead letters. What the sink must
// not see twice as much of, or the operator has decided, is shared: connections,
// the limit, the pause, the memory.
func (s *Subscription) child(r *Redrive, of string) *Subscription {
	cfg := s.cfg
	cfg.Group, cfg.Topic, cfg.InstanceID = of, s.cfg.DeadLetter, ""
	cfg.Block = false  // what fails is a letter already, and becomes a new one
	cfg.Batch.Size = 1 // letters of one topic come from several
	cfg.For = 1 << 62  // while the sink is at fault a letter stays as it is
	child := &Subscription{cfg: cfg, client: s.client, letters: s.letters, sink: s.sink, budget: s.budget, metrics: s.metrics, pace: s.pace,
		breaker: newBreaker(), workerIdle: s.workerIdle, spans: cfg.Tracer.Consumer(cfg.Topic, of, cfg.Name, cfg.Sink),
		log: s.log, gate: s.gate, filters: s.filters, pass: r, partitions: map[int]*partition{}}
	member := group.Config{Client: s.client, Group: of, Topic: cfg.Topic, SessionTimeout: r.session, Log: s.log}
	if r.Select == nil {
		member.Log = nil // it happens by itself, again and again
	}
	child.member = group.New(member)
	return child
}

// awaitNoOther returns when the group has no member.
func (s *Subscription) awaitNoOther(ctx context.Context, r *Redrive, of string) error {
	wait, cancel := context.WithTimeout(ctx, otherPass)
	defer cancel()
	for {
		busy, err := deadletter.Busy(wait, s.client, of)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case busy == "":
			r.note("")
			return nil
		}
		r.note("waits for " + busy + ", which works on them or has died at it")
		select {
		case <-wait.Done():
			return &RefusedError{fmt.Sprintf("dead letters of %s are being worked on by %s; wait until that is over", s.cfg.Name, busy)}
		case <-time.After(500 * time.Millisecond): // brokers send no notice of an empty group
		}
	}
}

func refusedPaused(why string) error {
	return &RefusedError{"the subscription is paused (" + why + "); resume it first"}
}

// generation serves a generation of the group, if it has all partitions.
func (r *Redrive) generation(child *Subscription) group.Handler {
	return func(ctx context.Context, session *group.Session) error {
		positions, err := deadletter.Positions(ctx, child.client, child.cfg.Group, child.cfg.Topic, child.keys())
		if err != nil {
			return err
		}
		if len(session.Partitions) != len(positions) {
			return errMet
		}
		for _, p := range positions {
			if p.Wrong != nil {
				return &RefusedError{fmt.Sprintf("what group %s has stored for partition %d is not to be trusted: %v; delete the group (kafka-consumer-groups.sh --delete --group %s), and all letters count as open",
					child.cfg.Group, p.Partition, p.Wrong, child.cfg.Group)}
			}
		}
		r.bound(positions)
		return child.handle(ctx, session)
	}
}

// bound takes note of where the topic begins now, and of where it ended when the
// pass began: letters that the pass itself writes are not for it.
func (r *Redrive) bound(positions []deadletter.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends == nil {
		r.ends = map[int]int64{}
		for _, p := range positions {
			r.ends[p.Partition] = p.End
		}
	}
	r.firsts = map[int]int64{}
	for _, p := range positions {
		r.firsts[p.Partition] = p.First
	}
	r.over, r.partitions = map[int]bool{}, map[int]passed{}
}

// keys seal commits; nil for none.
func (s *Subscription) keys() seal.Keys {
	if s.cfg.Keys == nil {
		return nil
	}
	return s.cfg.Keys()
}

// Mailbox is where the dead letters of a subscription are, and what they were.
type Mailbox struct {
	Client            *kafkago.Client
	Topic, Group      string // of the letters and of their state
	Source, Delivered string // topic of the events, and the group that delivers them
	Keys              seal.Keys
}

// Mailbox is the subscription's.
func (s *Subscription) Mailbox() Mailbox {
	return Mailbox{Client: s.client, Topic: s.cfg.DeadLetter, Group: deadletter.Group(s.cfg.Group), Source: s.cfg.Topic, Delivered: s.cfg.Group, Keys: s.keys()}
}

// Wants reports whether the subscription delivers a record of its topic.
func (s *Subscription) Wants(id int, rec fetch.Record) bool {
	p := partition{sub: s, id: id}
	e, _, err := p.read(&item{offset: rec.Offset, record: rec.Record})
	if err != nil {
		return false
	}
	passes, _ := s.filters.matcher.Match(e) // one that fails is false
	return passes
}

// Paused is why the subscription is paused, "" when it is not.
func (s *Subscription) Paused() string {
	if shut, _ := s.gate.Get(); shut != nil {
		return shut.Reason
	}
	return ""
}

// Leads reports whether this process has the first partition of the topic, and so
// does what one process of the group has to do.
func (s *Subscription) Leads() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partitions[0] != nil
}
