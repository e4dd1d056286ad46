package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// Group is the consumer group that remembers which letters of a subscription are
// dealt with. group is the subscription's own.
func Group(group string) string { return group + ".dlq" }

// Position says which letters of one partition are dealt with: everything below
// Committed, and what the map of the commit adds. Letters of other subscriptions
// say nothing either way.
type Position struct {
	Partition  int
	First, End int64 // of the partition
	Committed  int64 // -1: nothing yet
	Wrong      error // why the stored state is not the bridge's own, and ignored; nil when it is

	done *track.Tracker
}

// Done reports whether the letter at offset is dealt with. Offsets must ascend
// from call to call.
func (p *Position) Done(offset int64) bool {
	return offset < p.Committed || !p.done.Received(offset)
}

// Expired is how many offsets the topic has dropped, by its retention, before
// they were dealt with: an upper bound of the letters that are lost.
func (p *Position) Expired() int64 { return max(0, p.First-max(0, p.Committed)) }

// From is the offset of the first record that may be an open letter.
func (p *Position) From() int64 { return max(p.First, p.Committed) }

// Positions reads the state of group, made by Group, for every partition of the
// dead-letter topic.
func Positions(ctx context.Context, client *kafkago.Client, group, topic string, keys seal.Keys) ([]Position, error) {
	all, err := Bounds(ctx, client, topic)
	if err != nil {
		return nil, err
	}
	stored, err := offsets(ctx, client, group, topic, len(all))
	if err != nil {
		return nil, err
	}
	for id, o := range stored {
		all[id].restore(group, topic, o, keys)
	}
	return all, nil
}

// restore takes in what the group has stored. Without a good seal nothing counts
// as done: showing a letter that is dealt with does less harm than hiding one
// that is not.
func (p *Position) restore(group, topic string, o kafkago.OffsetFetchPartition, keys seal.Keys) {
	if o.CommittedOffset < 0 {
		return
	}
	metadata := o.Metadata
	if keys != nil {
		metadata, _, p.Wrong = keys.Open(seal.Place{Group: group, Topic: topic, Partition: p.Partition, Offset: o.CommittedOffset}, o.Metadata)
	}
	if p.Wrong == nil && o.CommittedOffset > p.End {
		p.Wrong = fmt.Errorf("the stored offset %d is beyond the end of the topic: it was recreated", o.CommittedOffset)
	}
	if p.Wrong == nil {
		p.Committed, p.done = o.CommittedOffset, track.New(o.CommittedOffset, metadata)
	}
}

// Bounds are the first offset and the end of each partition; nothing counts as
// dealt with.
func Bounds(ctx context.Context, client *kafkago.Client, topic string) ([]Position, error) {
	n, err := kafka.Partitions(ctx, client, topic)
	if err != nil {
		return nil, err
	}
	bounds, err := retried(ctx, client, func(ctx context.Context) ([]kafka.Bounds, error) { return kafka.TopicBounds(ctx, client, topic, n) })
	if err != nil {
		return nil, err
	}
	all := make([]Position, n)
	for id, b := range bounds {
		all[id] = Position{Partition: id, First: b.First, End: b.End, Committed: -1, done: track.New(-1, "")}
	}
	return all, nil
}

func offsets(ctx context.Context, client *kafkago.Client, group, topic string, n int) ([]kafkago.OffsetFetchPartition, error) {
	return retried(ctx, client, func(ctx context.Context) ([]kafkago.OffsetFetchPartition, error) {
		stored, err := kafka.StoredOffsets(ctx, client, group, topic, n)
		if errors.Is(err, kafkago.GroupIdNotFound) {
			return nil, nil // some brokers say so of a group that has stored nothing
		}
		return stored, err
	})
}

// retried calls f until it succeeds, some seconds long: a pooled connection may
// have died, and a coordinator takes its time to be there.
func retried[T any](ctx context.Context, client *kafkago.Client, f func(context.Context) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	again := retry.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond}
	for {
		if answer, err = f(ctx); err == nil {
			return answer, nil
		}
		kafka.Forget(client)
		var code kafkago.Error
		if (errors.As(err, &code) && !code.Temporary()) || again.Wait(ctx) != nil {
			return answer, kafka.Plain(err)
		}
	}
}

// Busy says which member group has, "" for none.
func Busy(ctx context.Context, client *kafkago.Client, group string) (string, error) {
	resp, err := retried(ctx, client, func(ctx context.Context) (*kafkago.DescribeGroupsResponse, error) {
		resp, err := client.DescribeGroups(ctx, &kafkago.DescribeGroupsRequest{GroupIDs: []string{group}})
		if err == nil && len(resp.Groups) == 1 && !errors.Is(resp.Groups[0].Error, kafkago.GroupIdNotFound) {
			err = resp.Groups[0].Error
		}
		return resp, err
	})
	if err != nil {
		return "", fmt.Errorf("look up the members of group %s: %w", group, err)
	}
	for _, g := range resp.Groups {
		for _, m := range g.Members {
			return fmt.Sprintf("%s at %s", m.ClientID, m.ClientHost), nil
		}
	}
	return "", nil
}
