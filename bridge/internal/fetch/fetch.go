// Package fetch reads the records of one partition and holds no more of them
// in memory than its caller has room for.
//
// kafka-go's own fetch decompresses and indexes everything that an answer
// holds before it returns. What that takes is up to whoever wrote the topic: a
// megabyte of zstd can be a gigabyte of records. Here an answer is kept as it
// came, its size is asked for before it is read off the wire, and records are
// decompressed one after the other, when they are asked for.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/taskwire/taskwire/internal/kafka"
)

// Request asks for the records of one partition from Offset on.
type Request struct {
	Topic     string
	Partition int
	Offset    int64         // kafkago.FirstOffset for the first there is
	MaxBytes  int           // of an answer; a broker sends one batch whatever its size
	MaxWait   time.Duration // for the first byte

	// Grant is called with the size of an answer in bytes before it is read, if
	// there is anything in it. It may block until there is room. Its error ends
	// the fetch.
	Grant func(ctx context.Context, size int) error
}

// Answer is what a broker sent.
type Answer struct {
	LogStart int64 // first offset of the partition
	End      int64 // high watermark: offset after the last replicated record
	Batches  []byte
}

// Fetch asks the partition's leader. Errors of the broker are kafkago.Error
// values.
func Fetch(ctx context.Context, client *kafkago.Client, r Request) (Answer, error) {
	if r.Offset < 0 {
		first, err := firstOffset(ctx, client, r.Topic, r.Partition)
		if err != nil {
			return Answer{}, err
		}
		r.Offset = first
	}
	transport, ok := client.Transport.(*kafka.Transport)
	if !ok {
		return Answer{}, errors.New("fetch needs a client of kafka.NewClient")
	}
	m, err := transport.RoundTrip(ctx, client.Addr, &exchange{
		ctx: ctx, clientID: transport.ClientID, grant: r.Grant,
		Request: fetchapi.Request{
			ReplicaID: -1, MaxWaitTime: int32(r.MaxWait.Milliseconds()), MinBytes: 1, MaxBytes: int32(r.MaxBytes), SessionID: -1, SessionEpoch: -1,
			Topics: []fetchapi.RequestTopic{{Topic: r.Topic, Partitions: []fetchapi.RequestPartition{{
				Partition: int32(r.Partition), CurrentLeaderEpoch: -1, FetchOffset: r.Offset, LogStartOffset: -1, PartitionMaxBytes: int32(r.MaxBytes),
			}}}},
		},
	})
	if err != nil {
		return Answer{}, err
	}
	a := m.(*answer)
	if a.code != 0 {
		return Answer{}, kafkago.Error(a.code)
	}
	return a.Answer, nil
}

func firstOffset(ctx context.Context, client *kafkago.Client, topic string, partition int) (int64, error) {
	resp, err := client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{topic: {kafkago.FirstOffsetOf(partition)}}})
	if err != nil {
		return 0, fmt.Errorf("look up the first offset: %w", err)
	}
	for _, p := range resp.Topics[topic] {
		if p.Partition == partition {
			return p.FirstOffset, p.Error
		}
	}
	return 0, fmt.Errorf("look up the first offset: the broker does not know partition %d of %s", partition, topic)
}
