package kafka

import (
	"context"
	"fmt"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Leaders are the leaders of a topic's partitions, as the client knows them.
type Leaders struct {
	topic string
	all   []metadata.ResponsePartition // by index, ascending
}

// TopicLeaders returns the leaders of a topic. It asks no broker as long as the
// client knows the cluster; after Forget it waits until it does.
func TopicLeaders(ctx context.Context, client *kafkago.Client, topic string) (Leaders, error) {
	m, err := client.Transport.RoundTrip(ctx, client.Addr, &metadata.Request{TopicNames: []string{topic}})
	if err != nil {
		return Leaders{}, fmt.Errorf("look up the leaders of topic %s: %w", topic, err)
	}
	t := m.(*metadata.Response).Topics[0]
	if t.ErrorCode != 0 {
		return Leaders{}, fmt.Errorf("look up the leaders of topic %s: %w", topic, kafkago.Error(t.ErrorCode))
	}
	return Leaders{topic, t.Partitions}, nil
}

// Of returns the id of the broker that leads a partition.
func (l Leaders) Of(partition int32) (int32, error) {
	i, ok := slices.BinarySearchFunc(l.all, partition, func(p metadata.ResponsePartition, id int32) int { return int(p.PartitionIndex - id) })
	if !ok {
		return 0, fmt.Errorf("look up the leader of %s/%d: %w", l.topic, partition, kafkago.UnknownTopicOrPartition)
	}
	if l.all[i].LeaderID < 0 {
		return 0, fmt.Errorf("look up the leader of %s/%d: %w", l.topic, partition, kafkago.LeaderNotAvailable)
	}
	return l.all[i].LeaderID, nil
}
