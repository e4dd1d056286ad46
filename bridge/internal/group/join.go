package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/describegroups"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"
	"github.com/segmentio/kafka-go/protocol/syncgroup"

	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// generation is what a completed rebalance assigned to this member.
type generation struct {
	number   int32
	memberID string
	protocol string
	assigned []int
	marked   bool      // by a leader that respects what others work on
	synced   time.Time // when the request for assigned was sent

	// For the leader, which watches for new partitions: how many of each topic it
	// assigned. dealt is nil for a static leader that came back and assigned nothing; it
	// asks the group.
	leader bool
	topics []string
	dealt  map[string]int
}

// join joins the group and returns its generation. It returns an error only when ctx has
// ended or another process uses the same instance id.
func (m *Member) join(ctx context.Context) (generation, error) {
	given := false // whether the coordinator has already asked to join again with an id
	for backoff := newBackoff(); ; {
		g, err := m.joinOnce(ctx, nil)
		switch {
		case err == nil:
			m.succeed()
			return g, nil
		case ctx.Err() != nil:
			return generation{}, ctx.Err()
		case errors.Is(err, kafkago.MemberIDRequired) && !given:
			given = true // joinOnce has kept the id
			continue
		case errors.Is(err, kafkago.FencedInstanceID):
			return generation{}, m.replaced()
		case errors.Is(err, kafkago.UnknownMemberId):
			m.forget()
		}
		if !errors.Is(err, kafkago.RebalanceInProgress) { // others came or went while this member joined
			m.fail("join group "+m.cfg.Group, err)
		}
		if backoff.Wait(ctx) != nil {
			return generation{}, ctx.Err()
		}
	}
}

// joinOnce joins the group. s is the session that goes on meanwhile, with all it works on;
// nil when there is none.
func (m *Member) joinOnce(ctx context.Context, s *Session) (generation, error) {
	if err := m.probe(ctx); err != nil {
		return generation{}, err
	}
	if m.id == "" && m.cfg.InstanceID != "" {
		m.unnamed = true
	}
	res, err := await[*joinResponse](ctx, m, m.generation, s, &joinRequest{
		GroupID:            m.cfg.Group,
		SessionTimeoutMS:   int32(m.cfg.SessionTimeout.Milliseconds()),
		RebalanceTimeoutMS: int32(m.cfg.RebalanceTimeout.Milliseconds()),
		MemberID:           m.id,
		GroupInstanceID:    m.cfg.InstanceID,
		ProtocolType:       protocolType,
		Protocols:          m.protocols(s),
	})
	if err != nil {
		return generation{}, err
	}
	m.unnamed = false
	if err := codeError(res.ErrorCode); err != nil {
		if errors.Is(err, kafkago.MemberIDRequired) {
			m.id = res.MemberID
		}
		return generation{}, err
	}
	m.id, m.generation = res.MemberID, res.GenerationID
	if s != nil {
		s.number.Store(res.GenerationID) // commits are refused in any other from here on
	}
	g := generation{number: res.GenerationID, memberID: res.MemberID, protocol: res.ProtocolName, leader: res.LeaderID == res.MemberID}
	plan, err := m.plan(ctx, &g, res)
	if err != nil {
		return generation{}, err
	}
	g.synced = time.Now()
	g.assigned, g.marked, err = m.sync(ctx, g, plan)
	return g, err
}

// protocols is what the coordinator may choose from, the preferred one first.
func (m *Member) protocols(s *Session) []joinProtocol {
	var owned []int
	generation := int32(-1)
	if s != nil {
		owned, generation = s.owned(), s.g.number
	}
	subscription := encodeSubscription(m.cfg.Topic, owned, generation)
	protocols := []joinProtocol{{Name: protocolRange, Metadata: subscription}}
	if m.cfg.Sticky {
		protocols = append([]joinProtocol{{Name: protocolSticky, Metadata: subscription}}, protocols...)
	}
	return protocols
}

// probe checks that the coordinator can be reached. A join may legitimately take very long;
// sent over a pooled connection that died unnoticed it would take as long to fail, and the
// group would continue without this member. The content of the answer does not matter.
func (m *Member) probe(ctx context.Context) error {
	_, err := m.beat(ctx, -1)
	return err
}

// await sends a join or a sync, which the coordinator answers when the last member has
// joined, and checks meanwhile with heartbeats that the coordinator still knows of the
// request. If the coordinator has moved, or the connection has lost the request, the answer
// would never come.
//
// A heartbeat in generation renews the session. The embedded broker needs that: its session
// timeout runs while a member waits in a join, and removes it without an answer (kfake,
// groups.go: updateMemberAndRebalance leaves the timer of updateHeartbeat running, which
// calls removeMember). Apache Kafka removes no waiting member.
//
// The answer to such a heartbeat also confirms the membership of s, which goes on meanwhile.
func await[R protocol.Message](ctx context.Context, m *Member, generation int32, s *Session, req protocol.Message) (res R, err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer giveUp(nil)
	if m.id != "" {
		wg.Go(func() { m.ask(ctx, generation, s, giveUp) })
	}
	res, err = send[R](ctx, m, 2*m.cfg.RebalanceTimeout+joinSlack, req)
	if why := context.Cause(ctx); err != nil && why != nil {
		return res, why
	}
	return res, err
}

// ask calls giveUp when the coordinator no longer knows of the request that waits for it.
func (m *Member) ask(ctx context.Context, generation int32, s *Session, giveUp context.CancelCauseFunc) {
	for retry.Pause(ctx, m.cfg.Heartbeat) == nil {
		sent := time.Now()
		res, err := m.beat(ctx, generation)
		if err != nil {
			continue // the next heartbeat may be answered
		}
		switch code := kafkago.Error(res.ErrorCode); code {
		case 0:
			giveUp(errNotJoining)
		case kafkago.UnknownMemberId, kafkago.FencedInstanceID:
			giveUp(code)
		case kafkago.RebalanceInProgress: // the broker has renewed the session
			if s != nil {
				s.confirm(sent)
			}
		}
	}
}

// errNotJoining: while a member joins, a heartbeat in its previous generation is answered
// with RebalanceInProgress or IllegalGeneration, never with success.
var errNotJoining = errors.New("coordinator lost the join request")

// plan assigns the partitions when this member leads the group, and returns nil when it
// does not.
func (m *Member) plan(ctx context.Context, g *generation, res *joinResponse) ([]syncgroup.RequestAssignment, error) {
	if !g.leader {
		return nil, nil
	}
	members := make([]subscriber, 0, len(res.Members))
	topics := make(map[string]struct{})
	for _, jm := range res.Members {
		subscribed, err := decodeSubscription(jm.Metadata)
		if err != nil {
			// It gets no partitions; the others are not affected.
			m.cfg.Log.Warn("consumer group member ignored, its subscription is invalid", "group", m.cfg.Group, "member", jm.MemberID, "err", err)
		}
		members = append(members, subscriber{jm.MemberID, jm.GroupInstanceID, subscribed})
		for _, topic := range subscribed.topics {
			topics[topic] = struct{}{}
		}
	}
	g.topics = slices.Sorted(maps.Keys(topics))
	if res.SkipAssignment {
		return nil, nil
	}
	dealt, err := m.partitions(ctx, g.topics)
	if err != nil {
		return nil, err
	}
	g.dealt = dealt
	assignments := make([]syncgroup.RequestAssignment, 0, len(members))
	for id, partitions := range plan(g.protocol, members, dealt) {
		assignments = append(assignments, syncgroup.RequestAssignment{MemberID: id, Assignment: encodeAssignment(partitions)})
	}
	return assignments, nil
}

func (m *Member) sync(ctx context.Context, g generation, plan []syncgroup.RequestAssignment) (assigned []int, marked bool, err error) {
	// No generation: a member that cannot get its partitions must not keep its session alive.
	res, err := await[*syncgroup.Response](ctx, m, -1, nil, &syncgroup.Request{
		GroupID:         m.cfg.Group,
		GenerationID:    g.number,
		MemberID:        g.memberID,
		GroupInstanceID: m.cfg.InstanceID,
		ProtocolType:    protocolType,
		ProtocolName:    g.protocol,
		Assignments:     plan,
	})
	if err != nil {
		return nil, false, fmt.Errorf("sync: %w", err)
	}
	if err := codeError(res.ErrorCode); err != nil {
		return nil, false, fmt.Errorf("sync: %w", err)
	}
	return decodeAssignment(res.Assignments, m.cfg.Topic)
}

// partitions returns how many partitions each topic has, 0 for a topic that does not
// exist. The transport answers from its cache, which is at most a few seconds old.
func (m *Member) partitions(ctx context.Context, topics []string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.requestTimeout())
	defer cancel()
	res, err := m.cfg.Client.Metadata(ctx, &kafkago.MetadataRequest{Topics: topics})
	if err != nil {
		return nil, fmt.Errorf("look up partitions of %v: %w", topics, kafka.Plain(err))
	}
	counts := make(map[string]int, len(topics))
	for _, t := range res.Topics {
		counts[t.Name] = len(t.Partitions)
	}
	return counts, nil
}

// assignedInGroup returns how many partitions of each topic the members of the group have.
// (Client.DescribeGroups fails on the subscription of a newer Java consumer in the group.)
func (m *Member) assignedInGroup(ctx context.Context, topics []string) (map[string]int, error) {
	res, err := send[*describegroups.Response](ctx, m, m.requestTimeout(), &describegroups.Request{Groups: []string{m.cfg.Group}})
	if err != nil {
		return nil, fmt.Errorf("describe group: %w", err)
	}
	counts := make(map[string]int, len(topics))
	for _, g := range res.Groups {
		if err := codeError(g.ErrorCode); err != nil {
			return nil, fmt.Errorf("describe group: %w", err)
		}
		for _, member := range g.Members {
			for _, topic := range topics {
				ids, _, err := decodeAssignment(member.MemberAssignment, topic)
				if err != nil {
					return nil, fmt.Errorf("describe group: %w", err)
				}
				counts[topic] += len(ids)
			}
		}
	}
	return counts, nil
}

// committed reads the group's offsets. It retries until ctx ends.
func (m *Member) committed(ctx context.Context, ids []int) ([]Partition, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	for backoff := newBackoff(); ; {
		partitions, err := m.committedOnce(ctx, ids)
		if err == nil {
			return partitions, nil
		}
		if ctx.Err() == nil {
			m.fail("fetch offsets of group "+m.cfg.Group, err)
		}
		if backoff.Wait(ctx) != nil {
			return nil, ctx.Err()
		}
	}
}

func (m *Member) committedOnce(ctx context.Context, ids []int) ([]Partition, error) {
	wanted := make([]int32, len(ids))
	for i, id := range ids {
		wanted[i] = int32(id)
	}
	res, err := send[*offsetfetch.Response](ctx, m, offsetTimeout, &offsetfetch.Request{
		GroupID: m.cfg.Group,
		Topics:  []offsetfetch.RequestTopic{{Name: m.cfg.Topic, PartitionIndexes: wanted}},
	})
	if err != nil {
		return nil, err
	}
	if err := codeError(res.ErrorCode); err != nil {
		return nil, err
	}
	partitions := make([]Partition, 0, len(ids))
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if err := codeError(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("partition %d: %w", p.PartitionIndex, err)
			}
			partitions = append(partitions, Partition{int(p.PartitionIndex), max(p.CommittedOffset, -1), p.Metadata})
		}
	}
	if len(partitions) != len(ids) {
		return nil, fmt.Errorf("requested offsets of %d partitions, got %d", len(ids), len(partitions))
	}
	slices.SortFunc(partitions, func(a, b Partition) int { return a.ID - b.ID })
	return partitions, nil
}

const (
	// joinSlack is how long a join may take beyond twice the rebalance timeout. Twice,
	// because a coordinator may restart its wait with each join (the embedded one does):
	// if joins were abandoned and repeated sooner, those of several members would keep a
	// group that waits for a dead one from ever completing the rebalance.
	joinSlack     = 5 * time.Second
	offsetTimeout = 5 * time.Second
)
