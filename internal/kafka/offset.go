package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// Bounds are the offset of a partition's first record, and its end: the offset
// after the last replicated one.
type Bounds struct{ First, End int64 }

// TopicBounds returns the bounds of the first n partitions of topic. It fails without
// an answer for each. ctx needs a deadline.
func TopicBounds(ctx context.Context, client *kafkago.Client, topic string, n int) ([]Bounds, error) {
	ids := make([]int, n)
	for id := range ids {
		ids[id] = id
	}
	first, last := map[int]Offset{}, map[int]Offset{}
	err := errors.Join(listOffsets(ctx, client, topic, ids, kafkago.FirstOffset, first), listOffsets(ctx, client, topic, ids, kafkago.LastOffset, last))
	if err != nil {
		return nil, fmt.Errorf("look up the offsets of topic %s: %w", topic, err)
	}
	all := make([]Bounds, n)
	for id := range all {
		if err := errors.Join(first[id].Err, last[id].Err); err != nil {
			return nil, fmt.Errorf("look up the offsets of %s/%d: %w", topic, id, err)
		}
		if all[id] = (Bounds{first[id].Offset, last[id].Offset}); all[id].End < all[id].First {
			return nil, fmt.Errorf("look up the offsets of %s/%d: the broker says %d to %d", topic, id, all[id].First, all[id].End)
		}
	}
	return all, nil
}

// OffsetsSince returns, for each partition of topic with these bounds, the offset of the first
// record that is not older than at, by the clock that the topic's retention goes by;
// the end of the partition when there is none. It fails without an answer for each.
// ctx needs a deadline.
func OffsetsSince(ctx context.Context, client *kafkago.Client, topic string, bounds []Bounds, at time.Time) ([]int64, error) {
	ids := make([]int, len(bounds))
	for id := range ids {
		ids[id] = id
	}
	found := map[int]Offset{}
	if err := listOffsets(ctx, client, topic, ids, at.UnixMilli(), found); err != nil {
		return nil, fmt.Errorf("look up the offsets of topic %s: %w", topic, err)
	}
	all := make([]int64, len(bounds))
	for id := range all {
		switch all[id] = found[id].Offset; {
		case errors.Is(found[id].Err, errNone):
			all[id] = bounds[id].End
		case found[id].Err != nil:
			return nil, fmt.Errorf("look up the offsets of %s/%d: %w", topic, id, found[id].Err)
		}
	}
	return all, nil
}

// Offset is what a broker says of one partition.
type Offset struct {
	Offset int64
	Err    error
}

// FirstOffsets returns the offset of the first record of each of the partitions; Err of
// one says why it is not known. ctx needs a deadline.
func FirstOffsets(ctx context.Context, client *kafkago.Client, topic string, partitions []int) (map[int]Offset, error) {
	all := map[int]Offset{}
	return all, listOffsets(ctx, client, topic, partitions, kafkago.FirstOffset, all)
}

// listOffsets asks each leader once: the library's ListOffsets sends a request for each
// partition, at the same time and so each over a connection of its own.
func listOffsets(ctx context.Context, client *kafkago.Client, topic string, partitions []int, at int64, all map[int]Offset) error {
	leaders, err := TopicLeaders(ctx, client, topic)
	if err != nil {
		return err
	}
	asked := map[int32][]listoffsets.RequestPartition{}
	for _, id := range partitions {
		all[id] = Offset{Err: errNoAnswer}
		leader, err := leaders.Of(int32(id))
		if err != nil {
			all[id] = Offset{Err: err}
			continue
		}
		asked[leader] = append(asked[leader], listoffsets.RequestPartition{Partition: int32(id), CurrentLeaderEpoch: -1, Timestamp: at})
	}
	for leader, ids := range asked {
		m, err := client.Transport.RoundTrip(ctx, client.Addr, &offsetsOf{leader: leader, clientID: clientID(client),
			request: listoffsets.Request{ReplicaID: -1, Topics: []listoffsets.RequestTopic{{Topic: topic, Partitions: ids}}}})
		if err != nil {
			return err
		}
		for _, t := range m.(*listoffsets.Response).Topics {
			for _, p := range t.Partitions {
				if _, ok := all[int(p.Partition)]; ok && t.Topic == topic {
					all[int(p.Partition)] = offsetFrom(p)
				}
			}
		}
	}
	return nil
}

var (
	errNoAnswer = errors.New("the broker did not say")
	errNone     = errors.New("the broker says that there is no such record")
)

func offsetFrom(p listoffsets.ResponsePartition) Offset {
	switch {
	case p.ErrorCode != 0:
		return Offset{Err: kafkago.Error(p.ErrorCode)}
	case p.Offset == -1:
		return Offset{Err: errNone}
	case p.Offset < 0:
		return Offset{Err: fmt.Errorf("the broker says %d", p.Offset)}
	}
	return Offset{Offset: p.Offset}
}

func clientID(client *kafkago.Client) string {
	if t, ok := client.Transport.(*Transport); ok {
		return t.ClientID
	}
	return ""
}

// offsetsOf asks one broker for offsets of all the partitions that it leads.
type offsetsOf struct {
	leader   int32
	clientID string
	version  int16
	request  listoffsets.Request
}

func (*offsetsOf) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

// Broker implements protocol.BrokerMessage.
func (o *offsetsOf) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	b, ok := cluster.Brokers[o.leader]
	if !ok {
		return b, kafkago.BrokerNotAvailable
	}
	return b, nil
}

// Required implements protocol.RawExchanger.
func (o *offsetsOf) Required(versions map[protocol.ApiKey]int16) bool {
	o.version = versions[protocol.ListOffsets]
	return true
}

// RawExchange implements protocol.RawExchanger.
func (o *offsetsOf) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	return protocol.RoundTrip(rw, o.version, 1, o.clientID, &o.request)
}

// StoredOffsets returns what group has stored for the first n partitions of topic,
// in their order; CommittedOffset is -1 where that is nothing. Without an answer for
// each, as while a coordinator is being found, it fails. ctx needs a deadline.
func StoredOffsets(ctx context.Context, client *kafkago.Client, group, topic string, n int) ([]kafkago.OffsetFetchPartition, error) {
	asked := make([]int, n)
	for id := range asked {
		asked[id] = id
	}
	resp, err := client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: asked}})
	if err == nil {
		err = resp.Error
	}
	if err != nil {
		return nil, fmt.Errorf("look up the offsets of group %s: %w", group, Plain(err))
	}
	all, answered := make([]kafkago.OffsetFetchPartition, n), map[int]bool{}
	for _, p := range resp.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("look up the offset of group %s in %s/%d: %w", group, topic, p.Partition, p.Error)
		}
		if p.Partition >= 0 && p.Partition < n {
			all[p.Partition], answered[p.Partition] = p, true
		}
	}
	if len(answered) != n {
		return nil, fmt.Errorf("look up the offsets of group %s: %d of %d partitions answered: %w", group, len(answered), n, kafkago.GroupCoordinatorNotAvailable)
	}
	return all, nil
}
