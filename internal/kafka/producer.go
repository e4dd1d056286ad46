package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"github.com/taskwire/taskwire/internal/event"
)

const (
	// attemptTimeout bounds one request. A broker that hangs is given up then,
	// and half of it is what the broker may wait for its replicas.
	attemptTimeout = 10 * time.Second
	// batchLimit stays below the 1 MiB that a topic accepts by default.
	batchLimit = 1_000_000
	backoffMin = 10 * time.Millisecond
	backoffMax = 500 * time.Millisecond
	// missingTries outlast the moment in which a new topic is not known everywhere.
	missingTries = 8
)

// Producer writes records that every in-sync replica has before it says so:
// acks=all, idempotent, keys placed as Java producers place them.
//
// Within a partition, records are stored in the order of one Produce call, and
// of calls that follow one another. Each partition has a producer identity of
// its own and at most one batch on the wire, so a batch is never sent before
// the one before it has been acknowledged.
//
// Its methods may be called from several goroutines. It has no goroutine of
// its own and nothing to close.
type Producer struct {
	client *kafkago.Client
	log    *slog.Logger
	turn   atomic.Uint32 // where the keyless records of the next call go

	mu         sync.Mutex // guards what follows
	partitions map[place]*partition
	refreshed  time.Time
}

type place struct {
	topic string
	id    int
}

// partition is what the producer knows of one partition. The fields after
// turn are owned by whoever took it.
type partition struct {
	place
	turn chan struct{} // holds one token; taken for a whole Produce call

	known bool     // whether id is valid
	id    identity // of the next batch
	limit int      // bytes of a batch, lowered when the broker says too large
	spare batch    // memory for the next batch; nil when a request may still read it
	// unsure is the last batch when it is not known whether it is stored: its
	// call ended first. Its sequence must never be used for other records, or the
	// broker could take them for a repetition and drop them.
	unsure batch
}

// ProduceError says which records are not known to be stored. They may be
// stored all the same: a request can be answered by silence.
type ProduceError struct {
	Topic string
	Acked []bool // by position in the call; true: every in-sync replica has it
	Err   error  // why not the others
}

func (e *ProduceError) Error() string {
	missing := 0
	for _, ok := range e.Acked {
		if !ok {
			missing++
		}
	}
	return fmt.Sprintf("produce to topic %s: %d of %d records are not acknowledged: %v", e.Topic, missing, len(e.Acked), e.Err)
}

func (e *ProduceError) Unwrap() error { return e.Err }

// NewProducer sends through client, which it leaves open.
func NewProducer(client *kafkago.Client, log *slog.Logger) *Producer {
	own := *client
	own.Timeout = attemptTimeout
	return &Producer{client: &own, log: log, partitions: map[place]*partition{}}
}

// Produce returns nil when all records are stored. It tries again whatever may
// pass, an absent broker included, until ctx ends; a topic that does not exist
// is reported within a second, as a *MissingTopicError. A record that is
// refused stops its partition, so that nothing overtakes it.
//
// The error is a *ProduceError. Records that it names may be stored; called
// with the same records again, in the same order, Produce resumes with the
// same sequence numbers and they are stored once. Called with others, it makes
// sure first that the former can no longer arrive behind them.
func (p *Producer) Produce(ctx context.Context, topic string, recs []event.Record) error {
	if len(recs) == 0 {
		return nil
	}
	n, err := p.count(ctx, topic)
	if err != nil {
		return produceError(topic, len(recs), []share{{index: upTo(len(recs)), err: err}})
	}
	shares := p.split(topic, recs, n)
	if len(shares) == 1 {
		p.deliver(ctx, &shares[0], recs)
	} else {
		var all sync.WaitGroup
		for i := range shares {
			all.Go(func() { p.deliver(ctx, &shares[i], recs) })
		}
		all.Wait()
	}
	return produceError(topic, len(recs), shares)
}

// share is the part of a call that goes to one partition.
type share struct {
	part  *partition
	index []int32 // positions in recs, ascending
	acked int     // how many of them are stored
	err   error   // why not all
}

func produceError(topic string, records int, shares []share) error {
	if !slices.ContainsFunc(shares, func(s share) bool { return s.err != nil }) {
		return nil
	}
	e := &ProduceError{Topic: topic, Acked: make([]bool, records)}
	var causes []error
	for _, s := range shares {
		for _, i := range s.index[:s.acked] {
			e.Acked[i] = true
		}
		if s.err != nil && !slices.ContainsFunc(causes, func(c error) bool { return c.Error() == s.err.Error() }) {
			causes = append(causes, s.err)
		}
	}
	e.Err = errors.Join(causes...)
	return e
}

func upTo(n int) []int32 {
	index := make([]int32, n)
	for i := range index {
		index[i] = int32(i)
	}
	return index
}

// split groups records by partition, keeping their order: a counting sort.
func (p *Producer) split(topic string, recs []event.Record, n int) []share {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n == 1 {
		return []share{{part: p.partition(place{topic, 0}), index: upTo(len(recs))}}
	}
	keyless := int(p.turn.Add(1)) % n
	target := make([]int32, len(recs))
	ends := make([]int32, n+1) // ends[i+1] counts partition i, then becomes its end
	for i := range recs {
		to := keyless
		if recs[i].Key != nil {
			to = partitionOf(recs[i].Key, n)
		}
		target[i] = int32(to)
		ends[to+1]++
	}
	for i := range n {
		ends[i+1] += ends[i]
	}
	index := make([]int32, len(recs))
	next := slices.Clone(ends[:n])
	for i, to := range target {
		index[next[to]] = int32(i)
		next[to]++
	}
	var shares []share
	for i := range n {
		if ends[i] < ends[i+1] {
			shares = append(shares, share{part: p.partition(place{topic, i}), index: index[ends[i]:ends[i+1]]})
		}
	}
	return shares
}

// partition needs mu.
func (p *Producer) partition(at place) *partition {
	pt := p.partitions[at]
	if pt == nil {
		pt = &partition{place: at, turn: make(chan struct{}, 1), limit: batchLimit}
		pt.turn <- struct{}{}
		p.partitions[at] = pt
	}
	return pt
}

// deliver sends a share batch after batch; the next is made only when the one
// before is stored.
func (p *Producer) deliver(ctx context.Context, s *share, recs []event.Record) {
	select {
	case <-s.part.turn:
		defer func() { s.part.turn <- struct{}{} }()
	case <-ctx.Done():
		s.err = fmt.Errorf("wait for an earlier call: %w", context.Cause(ctx))
		return
	}
	for s.acked < len(s.index) {
		b := s.part.next(recs, s.index[s.acked:])
		stored, err := p.send(ctx, s.part, b)
		if err != nil {
			s.err = err
			return
		}
		if stored {
			s.acked += b.count()
		}
	}
}

// next makes the batch for the records that index starts with.
func (pt *partition) next(recs []event.Record, index []int32) batch {
	if last := pt.unsure; last != nil {
		if n := last.count(); n <= len(index) {
			again, m := appendBatch(nil, recs, index[:n], math.MaxInt32, last.time())
			if m == n && again.sameRecords(last) {
				return last
			}
		}
		// Other records come first now. A higher epoch bars the door to the former:
		// once a batch of it is stored, the broker refuses all of lower epochs.
		pt.renew()
		pt.unsure = nil
	}
	b, _ := appendBatch(pt.spare, recs, index, pt.limit, time.Now())
	pt.spare = nil
	return b
}

// renew starts the sequence anew in the next epoch; a producer that has no
// more epochs gets another id.
func (pt *partition) renew() {
	if pt.id.epoch == math.MaxInt16 {
		pt.known = false
		return
	}
	pt.id.epoch++
	pt.id.sequence = 0
}

// send tries until b is stored, refused, or ctx ends. False without an error
// asks for a smaller batch of the same records.
//
// An attempt that failed is repeated with the same bytes and sequence: the
// broker stores it if it has not and acknowledges it if it has. A broker that
// answers OUT_OF_ORDER_SEQUENCE or does not know the producer has neither this
// batch nor, any more, the memory of the one before; its log was cut, or its
// memory of producers expired. Sequences cannot go on then, and a new epoch or
// id is taken. That is safe, because nothing else of this partition is on the
// wire and nothing behind this batch has been sent: sent again under a new
// name, it can only be stored twice (an earlier attempt was stored after all),
// never be lost, and what follows still follows its first copy. Readers drop
// the second copy by source and id.
func (p *Producer) send(ctx context.Context, pt *partition, b batch) (stored bool, err error) {
	maybe := pt.unsure != nil // an attempt may have been stored
	read := maybe             // a request may still read b's memory
	for try := 1; ; try++ {
		started := time.Now()
		var sent bool
		b, sent, err = p.attempt(ctx, pt, b, try, read)
		verdict := judge(err, b.count())
		maybe = maybe || sent && verdict == again && !surelyNotStored(err)
		read = read || sent && err != nil && !answered(err)
		switch verdict {
		case done:
			pt.stored(b, read)
			return true, nil
		case smaller:
			pt.limit = (len(b) - prefix) / 2
			pt.forget(b, maybe)
			return false, nil
		case refused:
			pt.remember(b, maybe)
			return false, err
		case newEpoch:
			p.log.Warn("broker lost track of this producer; its log may have lost records that it had acknowledged",
				"topic", pt.topic, "partition", pt.place.id, "producer", pt.id.producer, "epoch", pt.id.epoch, "sequence", pt.id.sequence, "err", err)
			pt.renew()
		case newProducer:
			pt.known = false
		}
		p.log.Debug("produce again", "topic", pt.topic, "partition", pt.place.id, "attempt", try, "err", err)
		p.refresh(started)
		// The first repetition is at once: a connection that died unnoticed is the usual cause.
		if cause := pause(ctx, try-1); cause != nil {
			pt.remember(b, maybe)
			return false, p.overdue(pt.topic, err, cause)
		}
	}
}

// attempt sends b once, under the partition's present identity. When that has
// changed since and read says that b's memory is not free, it sends a copy,
// which it returns.
func (p *Producer) attempt(ctx context.Context, pt *partition, b batch, try int, read bool) (_ batch, sent bool, err error) {
	// One bound for all of it: after a refresh the library waits for metadata first.
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if try > 1 {
		// The library answers "no topic" when it has no metadata at all; this
		// finds the reason.
		if n, err := lookUp(ctx, p.client, pt.topic); n == 0 && err != nil {
			return b, false, err
		}
	}
	if pt.known && int64(pt.id.sequence)+int64(b.count()) > math.MaxInt32 {
		pt.renew() // brokers disagree on how sequences wrap around, so they never do
	}
	if !pt.known {
		if pt.id, err = p.identify(ctx); err != nil {
			return b, false, err
		}
		pt.known = true
	}
	if !b.stamped(pt.id) {
		if read {
			b = slices.Clone(b)
		}
		b.stamp(pt.id)
	}
	resp, err := p.client.RawProduce(ctx, &kafkago.RawProduceRequest{
		Topic: pt.topic, Partition: pt.place.id, RequiredAcks: kafkago.RequireAll,
		RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(b)},
	})
	if err == nil {
		err = resp.Error
	}
	return b, true, err
}

// stored ends a batch well. Its memory serves the next, unless a request that
// timed out may still read it.
func (pt *partition) stored(b batch, read bool) {
	pt.id.sequence += int32(b.count())
	pt.forget(b, false)
	if read {
		pt.spare = nil
	}
}

// forget frees b's sequence for other records; if b may be stored, under a new epoch.
func (pt *partition) forget(b batch, maybe bool) {
	pt.unsure = nil
	pt.spare = b
	if maybe {
		pt.renew()
		pt.spare = nil
	}
}

// remember keeps b for the next call if it may be stored.
func (pt *partition) remember(b batch, maybe bool) {
	if maybe {
		pt.unsure = b
		return
	}
	pt.forget(b, false)
}

// identify asks for a new producer id. The library's own call looks for a
// transaction coordinator first, which makes brokers create its topic.
func (p *Producer) identify(ctx context.Context) (identity, error) {
	m, err := p.client.Transport.RoundTrip(ctx, p.client.Addr, &initProducer{ProducerID: -1, ProducerEpoch: -1})
	if err != nil {
		return identity{}, fmt.Errorf("ask for a producer id: %w", err)
	}
	resp := m.(*initproducerid.Response)
	if resp.ErrorCode != 0 {
		return identity{}, fmt.Errorf("ask for a producer id: %w", kafkago.Error(resp.ErrorCode))
	}
	return identity{producer: resp.ProducerID, epoch: resp.ProducerEpoch}, nil
}

// initProducer is the library's request without its Transaction method, so
// that it goes to any broker.
type initProducer initproducerid.Request

func (*initProducer) ApiKey() protocol.ApiKey { return protocol.InitProducerId }

// count is the number of partitions of topic.
func (p *Producer) count(ctx context.Context, topic string) (int, error) {
	for try := 1; ; try++ {
		started := time.Now()
		n, err := func() (int, error) {
			ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
			defer cancel()
			return lookUp(ctx, p.client, topic)
		}()
		if n > 0 {
			return n, nil // one without a leader stops only its own records
		}
		switch {
		case errors.Is(err, kafkago.UnknownTopicOrPartition) && try == missingTries:
			return 0, &MissingTopicError{Topic: topic, Brokers: p.client.Addr.String()}
		case judge(err, 1) == refused:
			return 0, err
		}
		p.log.Debug("look for the topic again", "topic", topic, "attempt", try, "err", err)
		p.refresh(started)
		if cause := pause(ctx, try-1); cause != nil {
			return 0, p.overdue(topic, err, cause)
		}
	}
}

// overdue explains what ctx's end cut short.
func (p *Producer) overdue(topic string, err, cause error) error {
	if errors.Is(err, kafkago.UnknownTopicOrPartition) {
		err = &MissingTopicError{Topic: topic, Brokers: p.client.Addr.String()}
	}
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w (last error before: %w)", cause, err)
}

// refresh lets the next attempt start from living connections and present
// leaders, once for all attempts that started before it.
func (p *Producer) refresh(started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refreshed.After(started) {
		return
	}
	p.refreshed = time.Now()
	Forget(p.client)
}

// pause waits longer from failure to failure, with jitter; not at all before
// the first repetition. It returns why ctx ended, if it did.
func pause(ctx context.Context, failures int) error {
	if failures > 0 {
		d := min(backoffMax, backoffMin<<min(failures-1, 10))
		_ = wait(ctx, d/2+rand.N(d/2+1)) // ctx is looked at below
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
