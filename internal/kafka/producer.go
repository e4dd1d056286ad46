package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/internal/event"
)

// Limits of one batch, under a broker's usual max.message.bytes of 1 MiB.
const (
	maxBatchBytes   = 900 << 10
	maxBatchRecords = 2000
)

// Producer writes records in order per key, with acks=all and idempotence:
// what it repeats because an answer was lost is stored once. It has one batch
// in flight per partition. The zero value is not usable; see NewProducer.
type Producer struct {
	client *kafkago.Client
	log    *slog.Logger

	mu     sync.Mutex // held through Produce: calls queue, so that order is the order of the calls
	topics map[string]*topicState

	idMu sync.Mutex // partitions that send side by side may all find the identity refused
	id   *identity  // nil until the first produce; replaced, never changed
}

type topicState struct {
	partitions []partitionState
}

// partitionState is owned by the one goroutine that sends to the partition during a Produce.
type partitionState struct {
	id       *identity // under which sequence counts
	sequence int32     // of the next record
}

// identity is what the broker knows this producer by.
type identity struct {
	producer int64
	epoch    int16
}

// ProduceError says that not all records of a call are known to be stored.
// Those that are not may be stored all the same: producing them again can
// only repeat them.
type ProduceError struct {
	Acked []bool // by position in the call; true: stored by all in-sync replicas
	Err   error
}

func (e *ProduceError) Error() string {
	n := 0
	for _, ok := range e.Acked {
		if ok {
			n++
		}
	}
	return fmt.Sprintf("produce: %d of %d records acknowledged: %v", n, len(e.Acked), e.Err)
}

func (e *ProduceError) Unwrap() error { return e.Err }

// NewProducer sends through client and opens nothing yet.
func NewProducer(client *kafkago.Client, log *slog.Logger) *Producer {
	return &Producer{client: client, log: log, topics: map[string]*topicState{}}
}

// Produce returns nil when every record is stored by all in-sync replicas, in
// the order given among records of one key. It repeats what may succeed later
// until ctx ends; then, and when the broker refuses for good, the error is a
// *ProduceError.
//
// Within a partition the next batch is sent only after the ack of the one
// before, so a failure leaves an acknowledged prefix and never a gap.
func (p *Producer) Produce(ctx context.Context, topic string, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	acked := make([]bool, len(records))
	err := p.produce(ctx, topic, records, acked)
	if err != nil {
		return &ProduceError{Acked: acked, Err: err}
	}
	return nil
}

func (p *Producer) produce(ctx context.Context, topic string, records []event.Record, acked []bool) error {
	state, err := p.topic(ctx, topic)
	if err != nil {
		return err
	}
	if err := p.identify(ctx); err != nil {
		return err
	}
	byPartition := split(records, len(state.partitions))
	if len(byPartition) == 1 { // the usual case needs no goroutine
		for n, positions := range byPartition {
			return p.send(ctx, topic, n, &state.partitions[n], records, positions, acked)
		}
	}
	// One partition's failure must not cut short the others: no shared cancel.
	var group errgroup.Group
	for n, positions := range byPartition {
		group.Go(func() error { return p.send(ctx, topic, n, &state.partitions[n], records, positions, acked) })
	}
	return group.Wait()
}

// topic knows how many partitions there are; the count is kept for the life of
// the producer, since another would move keys.
func (p *Producer) topic(ctx context.Context, name string) (*topicState, error) {
	if s, ok := p.topics[name]; ok {
		return s, nil
	}
	var n int
	err := p.retry(ctx, "find topic "+name, func(ctx context.Context) (err error) {
		n, err = Partitions(ctx, p.client, name)
		var missing *MissingTopicError
		if errors.As(err, &missing) {
			return permanent{err}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &topicState{partitions: make([]partitionState, n)}
	p.topics[name] = s
	return s, nil
}

// split assigns positions in records to partitions as Java's default partitioner does.
func split(records []event.Record, partitions int) map[int][]int {
	all := make([]int, partitions)
	for i := range all {
		all[i] = i
	}
	var balancer kafkago.Balancer = kafkago.Murmur2Balancer{Consistent: true}
	out := make(map[int][]int, 1)
	for i := range records {
		n := 0
		if partitions > 1 {
			n = balancer.Balance(kafkago.Message{Key: records[i].Key}, all...)
		}
		out[n] = append(out[n], i)
	}
	return out
}

// identify obtains a producer id; the broker may still be loading when it has just started.
func (p *Producer) identify(ctx context.Context) error {
	if p.id != nil {
		return nil
	}
	return p.retry(ctx, "obtain a producer id", func(ctx context.Context) error {
		resp, err := p.client.InitProducerID(ctx, &kafkago.InitProducerIDRequest{ProducerID: -1, ProducerEpoch: -1})
		if err == nil {
			err = resp.Error
		}
		if err != nil {
			return err
		}
		p.id = &identity{producer: int64(resp.Producer.ProducerID), epoch: int16(resp.Producer.ProducerEpoch)}
		return nil
	})
}

// send stores the records at positions, batch by batch.
func (p *Producer) send(ctx context.Context, topic string, n int, part *partitionState, records []event.Record, positions []int, acked []bool) error {
	for len(positions) > 0 {
		size := batch(records, positions)
		if err := p.store(ctx, topic, n, part, records, positions[:size]); err != nil {
			return err
		}
		for _, i := range positions[:size] {
			acked[i] = true
		}
		positions = positions[size:]
	}
	return nil
}

// batch is how many of the next records fit into one batch; at least one.
func batch(records []event.Record, positions []int) int {
	bytes := 0
	for n, i := range positions {
		bytes += size(&records[i])
		if n > 0 && (bytes > maxBatchBytes || n == maxBatchRecords) {
			return n
		}
	}
	return len(positions)
}

func size(r *event.Record) int {
	n := len(r.Key) + len(r.Value) + 32
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 8
	}
	return n
}

// store sends one batch until it is acknowledged. The bytes of a repetition
// are the same, sequence included: the broker stores them once.
//
// When the broker no longer knows the sequence (it forgot the producer, or lost
// its log's end) a new identity starts at zero. The batch may then be stored
// twice; it cannot be overtaken, since nothing after it was sent yet.
func (p *Producer) store(ctx context.Context, topic string, n int, part *partitionState, records []event.Record, positions []int) error {
	var encoded []byte
	return p.retry(ctx, fmt.Sprintf("produce to %s/%d", topic, n), func(ctx context.Context) error {
		if part.id != p.currentID() {
			part.id, part.sequence, encoded = p.currentID(), 0, nil
		}
		if encoded == nil {
			var err error
			if encoded, err = encode(records, positions, *part.id, part.sequence); err != nil {
				return permanent{err}
			}
		}
		err := p.request(ctx, topic, n, encoded)
		switch {
		case err == nil, errors.Is(err, kafkago.DuplicateSequenceNumber):
			part.sequence = int32((int64(part.sequence) + int64(len(positions))) & 0x7fffffff)
			return nil
		case errors.Is(err, kafkago.OutOfOrderSequenceNumber), errors.Is(err, kafkago.Error(59)), errors.Is(err, kafkago.InvalidProducerEpoch):
			return p.renew(ctx, part.id, err)
		}
		return err
	})
}

func (p *Producer) currentID() *identity {
	p.idMu.Lock()
	defer p.idMu.Unlock()
	return p.id
}

// renew replaces a refused identity and reports cause, so that the batch is tried again.
func (p *Producer) renew(ctx context.Context, refused *identity, cause error) error {
	p.idMu.Lock()
	defer p.idMu.Unlock()
	if p.id != refused {
		return cause // another partition renewed it
	}
	p.log.Warn("the broker no longer knows this producer's sequence; going on under a new id", "error", cause.Error())
	resp, err := p.client.InitProducerID(ctx, &kafkago.InitProducerIDRequest{ProducerID: -1, ProducerEpoch: -1})
	if err == nil {
		err = resp.Error
	}
	if err != nil {
		return err
	}
	p.id = &identity{producer: int64(resp.Producer.ProducerID), epoch: int16(resp.Producer.ProducerEpoch)}
	return retryNow{cause}
}

func (p *Producer) request(ctx context.Context, topic string, n int, encoded []byte) error {
	resp, err := p.client.RawProduce(ctx, &kafkago.RawProduceRequest{
		Topic: topic, Partition: n, RequiredAcks: kafkago.RequireAll, RawRecords: raw(encoded),
	})
	if err != nil {
		return err
	}
	return resp.Error
}

// permanent ends a retry; retryNow repeats without a pause.
type (
	permanent struct{ error }
	retryNow  struct{ error }
)

func (e permanent) Unwrap() error { return e.error }
func (e retryNow) Unwrap() error  { return e.error }

// retry repeats f until it succeeds, fails for good, or ctx ends. The first
// repetition comes at once: a pooled connection that died while the broker
// restarted fails its first use.
func (p *Producer) retry(ctx context.Context, what string, f func(context.Context) error) error {
	var last error
	for wait := time.Duration(0); ; wait = min(max(2*wait, 10*time.Millisecond), time.Second) {
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", what, errors.Join(err, last))
		}
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := f(attempt)
		cancel()
		var final permanent
		var now retryNow
		switch {
		case err == nil:
			return nil
		case errors.As(err, &final):
			return fmt.Errorf("%s: %w", what, final.error)
		case errors.As(err, &now):
			wait = 0
			last = err
			continue
		case !retriable(err):
			return fmt.Errorf("%s: %w", what, err)
		}
		last = err
		Forget(p.client)
		p.log.Debug(what+": trying again", "error", err.Error())
	}
}

// retriable says whether the same request may succeed later. An answer that
// was lost or cut counts: the sequence makes a repetition safe.
func retriable(err error) bool {
	var code kafkago.Error
	if errors.As(err, &code) {
		return code.Temporary() || code == kafkago.NotEnoughReplicas || code == kafkago.NotEnoughReplicasAfterAppend ||
			code == kafkago.UnknownTopicOrPartition || code == kafkago.OutOfOrderSequenceNumber
	}
	return !errors.Is(err, context.Canceled) // every other failure is one of the network
}
