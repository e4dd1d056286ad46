package kafka

import (
	"context"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
)

// Bounds are the offset of a partition's first record, and its end: the offset
// after the last replicated one.
type Bounds struct{ First, End int64 }

// TopicBounds returns the bounds of the first n partitions of topic. It fails without
// an answer for each. ctx needs a deadline.
func TopicBounds(ctx context.Context, client *kafkago.Client, topic string, n int) ([]Bounds, error) {
	asked := make([]kafkago.OffsetRequest, 0, 2*n)
	for id := range n {
		asked = append(asked, kafkago.FirstOffsetOf(id), kafkago.LastOffsetOf(id))
	}
	resp, err := client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{topic: asked}})
	if err != nil {
		return nil, fmt.Errorf("look up the offsets of topic %s: %w", topic, Plain(err))
	}
	all := make([]Bounds, n)
	for id := range all {
		all[id].First = -1
	}
	for _, p := range resp.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("look up the offsets of %s/%d: %w", topic, p.Partition, p.Error)
		}
		if p.Partition >= 0 && p.Partition < n {
			all[p.Partition] = Bounds{p.FirstOffset, p.LastOffset}
		}
	}
	for id, b := range all {
		if b.First < 0 || b.End < b.First {
			return nil, fmt.Errorf("look up the offsets of %s/%d: the broker says %d to %d", topic, id, b.First, b.End)
		}
	}
	return all, nil
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
