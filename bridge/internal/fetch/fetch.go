// Package fetch reads records and holds no more of them in memory than its caller
// has room for: Fetch those of one partition, a Feed those of many.
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
	Offset   int64 // asked for; the first there was if that was asked for
	LogStart int64 // first offset of the partition
	End      int64 // high watermark: offset after the last replicated record
	Batches  []byte
	Granted  int64 // by the Grant of a feed
}

// Fetch asks the partition's leader. Errors of the broker are kafkago.Error
// values.
func Fetch(ctx context.Context, client *kafkago.Client, r Request) (Answer, error) {
	if r.Offset < 0 {
		first, err := kafka.FirstOffsets(ctx, client, r.Topic, []int{r.Partition})
		if err == nil {
			err = first[r.Partition].Err
		}
		if err != nil {
			return Answer{}, fmt.Errorf("look up the first offset: %w", err)
		}
		r.Offset = first[r.Partition].Offset
	}
	transport, ok := client.Transport.(*kafka.Transport)
	if !ok {
		return Answer{}, errors.New("fetch needs a client of kafka.NewClient")
	}
	a, said := Answer{Offset: r.Offset}, part{}
	_, err := transport.RoundTrip(ctx, client.Addr, &exchange{
		ctx: ctx, clientID: transport.ClientID, broker: -1,
		Request: request(r.MaxWait, r.MaxBytes, r.Topic, []fetchapi.RequestPartition{wanted(r.Partition, r.Offset, r.MaxBytes)}),
		room: func(p part) ([]byte, error) {
			said = p
			if p.size == 0 || p.code != 0 {
				return nil, nil
			}
			if r.Grant != nil {
				if err := r.Grant(ctx, p.size); err != nil {
					return nil, err
				}
			}
			return make([]byte, p.size), nil
		},
		took: func(_ part, batches []byte) { a.Batches = batches },
	})
	if err != nil {
		return Answer{}, err
	}
	if said.code != 0 {
		return Answer{}, kafkago.Error(said.code)
	}
	a.LogStart, a.End = said.logStart, said.end
	return a, nil
}

func wanted(partition int, offset int64, most int) fetchapi.RequestPartition {
	return fetchapi.RequestPartition{Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: int32(most)}
}
