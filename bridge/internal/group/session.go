package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"

	"github.com/taskwire/taskwire/internal/retry"
)

// Session is a member's part in one generation of the group or, with Config.Sticky, in
// those that follow it without an interruption. It ends when its handler returns.
type Session struct {
	Claim

	m      *Member
	g      generation // owned by heartbeat
	work   context.Context
	revoke context.CancelCauseFunc // ends work
	turn   chan struct{}           // held by the Commit in progress
	beaten atomic.Int64            // when the coordinator last confirmed the membership, since m.began

	number  atomic.Int32 // of the generation in which to commit
	joining atomic.Bool  // the generation is being replaced
	held    holdings

	mu   sync.Mutex
	lost chan struct{} // closed once, when why is set
	why  error
}

func newSession(m *Member, work context.Context, g generation, revoke context.CancelCauseFunc) *Session {
	s := &Session{
		Claim:  Claim{Generation: int(g.number), MemberID: g.memberID},
		m:      m,
		g:      g,
		work:   work,
		revoke: revoke,
		turn:   make(chan struct{}, 1),
		lost:   make(chan struct{}),
	}
	s.number.Store(g.number)
	s.held.again = make(chan struct{}, 1)
	s.held.add(work, g.assigned)
	s.confirm(g.synced)
	return s
}

// Lost is closed when the coordinator no longer knows this generation: the partitions may
// belong to another member, posts in flight should be dropped, commits return ErrFenced.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// Confirmed reports whether the coordinator has acknowledged the membership within the
// last session timeout. When it has not, it may have reassigned the partitions without
// this member knowing; no new work should begin until Confirmed is true again.
func (s *Session) Confirmed() bool {
	return time.Since(s.m.began)-time.Duration(s.beaten.Load()) < s.m.cfg.SessionTimeout
}

// Commit stores offsets for the group. The commits of a session are stored in the order of
// the calls, one at a time. Until ctx ends, Commit retries when brokers are unavailable or
// the coordinator moves; nil means that all offsets are stored. ErrFenced means that this
// generation cannot commit any more. Any other error is the broker's refusal of a
// partition; the others are stored.
//
// It may be called until the handler returns, also during a rebalance.
func (s *Session) Commit(ctx context.Context, offsets map[int]Offset) error {
	var err error
	for _, perr := range s.CommitEach(ctx, offsets) {
		err = worse(err, perr)
	}
	return err
}

// CommitEach is Commit in one request for all partitions, with an answer for each of them:
// what the broker refuses of one keeps no other from being stored. The result has the
// partitions that were not stored.
//
// A request is far below the 100 MiB that a broker takes: 200 partitions with 4 KiB of
// metadata each are 0.8 MiB.
func (s *Session) CommitEach(ctx context.Context, offsets map[int]Offset) map[int]error {
	failed := map[int]error{}
	left := maps.Clone(offsets)
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		s.failAll(failed, left, ctx.Err())
		return failed
	}
	for backoff := newBackoff(); ; {
		if why := s.lostErr(); why != nil {
			s.failAll(failed, left, why)
			return failed
		}
		err := s.commitOnce(ctx, left, failed)
		if len(left) == 0 {
			return failed
		}
		if fenced(err) {
			s.lose(err)
			continue
		}
		if refused(err) {
			s.failAll(failed, left, err)
			return failed
		}
		if ctx.Err() == nil && !errors.Is(err, kafkago.RebalanceInProgress) && !errors.Is(err, errMetadataDropped) {
			s.m.fail("commit for group "+s.m.cfg.Group, err)
		}
		if backoff.Wait(ctx) != nil {
			s.failAll(failed, left, errors.Join(ctx.Err(), err))
			return failed
		}
	}
}

func (s *Session) failAll(failed map[int]error, left map[int]Offset, err error) {
	for id := range left {
		failed[id] = s.commitError(err)
	}
}

func (s *Session) commitError(err error) error {
	if fenced(err) {
		return fmt.Errorf("commit generation %d of group %s: %w: %w", s.number.Load(), s.m.cfg.Group, ErrFenced, err)
	}
	return fmt.Errorf("commit generation %d of group %s: %w", s.number.Load(), s.m.cfg.Group, err)
}

// commitOnce sends one commit. What is stored or refused leaves left, a refusal with its
// reason in failed; the error is about those that stay and may be retried.
func (s *Session) commitOnce(ctx context.Context, left map[int]Offset, failed map[int]error) (err error) {
	number := s.number.Load()
	req := &offsetcommit.Request{
		GroupID:         s.m.cfg.Group,
		GenerationID:    number,
		MemberID:        s.MemberID,
		GroupInstanceID: s.m.cfg.InstanceID,
		RetentionTimeMs: -1,
		Topics:          []offsetcommit.RequestTopic{{Name: s.m.cfg.Topic}},
	}
	for id, o := range left {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, offsetcommit.RequestPartition{
			PartitionIndex: int32(id), CommittedOffset: o.Offset, CommittedLeaderEpoch: -1, CommittedMetadata: o.Metadata,
		})
	}
	sent := time.Now()
	res, err := send[*offsetcommit.Response](ctx, s.m, offsetTimeout, req)
	if err != nil {
		return err
	}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			id := int(p.PartitionIndex)
			offset, asked := left[id]
			if !asked {
				continue
			}
			perr := codeError(p.ErrorCode)
			if errors.Is(perr, kafkago.IllegalGeneration) && (s.joining.Load() || number != s.number.Load()) {
				perr = kafkago.RebalanceInProgress // the next try has the new generation
			}
			switch {
			case perr == nil:
				delete(left, id)
				s.confirm(sent) // the broker renews the session with each commit
			case errors.Is(perr, kafkago.OffsetMetadataTooLarge) && offset.Metadata != offset.Short:
				err = worse(err, s.dropMetadata(left, id))
			case refused(perr) && !fenced(perr):
				failed[id] = s.commitError(fmt.Errorf("partition %d: %w", id, perr))
				delete(left, id)
			default:
				err = worse(err, fmt.Errorf("partition %d: %w", id, perr))
			}
		}
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("no answer for %d of %d partitions", len(left), len(req.Topics[0].Partitions))
	}
	if err == nil {
		s.m.succeed()
	}
	return err
}

// dropMetadata makes the next try store the short form: without the map of the offsets
// done above it some records are delivered again after a restart, but the group makes
// progress.
func (s *Session) dropMetadata(left map[int]Offset, id int) error {
	s.m.cfg.Log.Warn("broker refused the metadata of a commit, raise its offset.metadata.max.bytes to 4096",
		"group", s.m.cfg.Group, "topic", s.m.cfg.Topic, "partition", id, "bytes", len(left[id].Metadata))
	left[id] = Offset{Offset: left[id].Offset, Metadata: left[id].Short, Short: left[id].Short}
	return errMetadataDropped
}

var errMetadataDropped = errors.New("metadata too large, dropped")

// worse returns the error that decides: the end of the generation before a refusal, a
// refusal before what may succeed the next time.
func worse(a, b error) error {
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case fenced(err):
			return 3
		case refused(err):
			return 2
		}
		return 1
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// heartbeat keeps the membership alive until ctx ends or the generation is lost. After a
// failure the next try comes sooner, and the member keeps its id.
func (s *Session) heartbeat(ctx context.Context) {
	next := time.NewTimer(s.m.cfg.Heartbeat)
	defer next.Stop()
	refresh := time.NewTicker(s.m.cfg.Refresh)
	defer refresh.Stop()
	if s.g.leader && s.g.dealt == nil {
		s.watch(ctx) // partitions may have been added while this leader was down
	}
	for backoff := newBackoff(); ; {
		select {
		case <-ctx.Done():
			return
		case <-refresh.C:
			s.watch(ctx)
			continue
		case <-s.held.again:
			s.rebalance(ctx)
			continue
		case <-next.C:
		}
		if s.lostErr() != nil {
			return
		}
		sent := time.Now()
		err := s.heartbeatOnce(ctx)
		delay := s.m.cfg.Heartbeat
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.alive(backoff, sent)
		case errors.Is(err, kafkago.RebalanceInProgress): // the broker has renewed the session nevertheless
			s.alive(backoff, sent)
			s.rebalance(ctx)
		case fenced(err):
			s.lose(err)
			return
		default:
			s.m.fail("heartbeat to group "+s.m.cfg.Group, err)
			delay = backoff.Delay()
		}
		next.Reset(delay)
	}
}

func (s *Session) heartbeatOnce(ctx context.Context) error {
	res, err := s.m.beat(ctx, s.g.number)
	if err != nil {
		return err
	}
	return codeError(res.ErrorCode)
}

// watch makes the leader join again when a topic has more partitions than were assigned;
// the coordinator then starts a rebalance. After a failure the next call looks again.
func (s *Session) watch(ctx context.Context) {
	if !s.g.leader {
		return
	}
	if s.g.dealt == nil {
		dealt, err := s.m.assignedInGroup(ctx, s.g.topics)
		if err != nil {
			return
		}
		s.g.dealt = dealt
	}
	counts, err := s.m.partitions(ctx, s.g.topics)
	if err != nil {
		return
	}
	for topic, n := range counts {
		if n > s.g.dealt[topic] {
			s.m.cfg.Log.Info("topic has new partitions, consumer group rebalances", "group", s.m.cfg.Group, "topic", topic)
			s.rebalance(ctx)
			return
		}
	}
}

func (s *Session) alive(backoff *retry.Backoff, sent time.Time) {
	backoff.Reset()
	s.confirm(sent)
	s.m.succeed()
}

// confirm records when a request was sent that the coordinator has acknowledged: the
// coordinator restarted the session timeout then or later.
func (s *Session) confirm(sent time.Time) {
	at := int64(sent.Sub(s.m.began))
	for was := s.beaten.Load(); at > was && !s.beaten.CompareAndSwap(was, at); was = s.beaten.Load() {
	}
}

// lose ends the session for good.
func (s *Session) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return
	}
	s.why = err
	close(s.lost)
	s.revoke(fmt.Errorf("%w: %w", ErrFenced, err))
	s.m.cfg.Log.Warn("consumer group membership lost", "group", s.m.cfg.Group, "topic", s.m.cfg.Topic,
		"generation", s.number.Load(), "err", err)
}

func (s *Session) lostErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}
