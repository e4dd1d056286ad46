package kafka

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/retry"
)

// deliver sends a share one batch at a time; the next is built only when the
// previous one is stored.
func (p *Producer) deliver(ctx context.Context, s *share, recs []event.Record) {
	select {
	case <-s.part.turn:
		defer func() { s.part.turn <- struct{}{} }()
	case <-ctx.Done():
		s.err = fmt.Errorf("wait for an earlier call: %w", context.Cause(ctx))
		return
	}
	for s.acked < len(s.index) {
		b := s.part.next(recs, s.index[s.acked:], p.now())
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

// send retries until b is stored or refused, or ctx ends. False without an error
// asks for a smaller batch of the same records.
//
// A failed attempt is repeated with the same bytes and sequence: the broker
// stores the batch if it has not, and acknowledges it if it has. A broker that
// answers OUT_OF_ORDER_SEQUENCE or does not know the producer has neither this
// batch nor any memory of the previous one: its log was truncated, or its
// producer state expired. The sequence cannot continue then, and send takes a
// new epoch or id. That is safe, because nothing else of this partition is in
// flight and nothing after this batch has been sent: sent again under a new
// identity it can at worst be stored twice (if an earlier attempt was stored
// after all), never be lost, and later records still follow its first copy.
// Readers drop the second copy by source and id.
func (p *Producer) send(ctx context.Context, pt *partition, b batch) (stored bool, err error) {
	maybe := pt.unsure != nil // an attempt may have been stored
	read := maybe             // a request may still read b's memory
	var delay time.Duration   // the first retry is immediate: a stale connection is the usual cause
	pace := retry.Backoff{Min: backoffMin, Max: backoffMax}
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
			p.log.Warn("broker lost track of this producer; its log may have lost acknowledged records",
				"topic", pt.topic, "partition", pt.place.id, "producer", pt.id.producer, "epoch", pt.id.epoch, "sequence", pt.id.sequence, "err", err)
			pt.renew()
		case newProducer:
			pt.known = false
		case newTime:
			b = p.correct(pt, b, err, read)
			if try == 1 {
				continue // the connection and the leader are fine
			}
		}
		p.log.Debug("produce failed, retrying", "topic", pt.topic, "partition", pt.place.id, "attempt", try, "err", err)
		p.refresh(started)
		if cause := retry.Pause(ctx, delay); cause != nil {
			pt.remember(b, maybe)
			return false, p.overdue(pt.topic, err, cause)
		}
		delay = pace.Delay()
	}
}

// attempt sends b once, under the partition's current identity. If that has
// changed and read reports that b's memory is still in use, it sends a copy,
// which it returns.
func (p *Producer) attempt(ctx context.Context, pt *partition, b batch, try int, read bool) (_ batch, sent bool, err error) {
	// One deadline for everything: after a refresh the library waits for metadata first.
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if try > 1 {
		// Without any metadata the library answers "no topic"; the lookup returns
		// the real reason.
		if n, err := lookUp(ctx, p.client, pt.topic); n == 0 && err != nil {
			return b, false, err
		}
	}
	if pt.known && int64(pt.id.sequence)+int64(b.count()) > math.MaxInt32 {
		pt.renew() // brokers disagree on how sequences wrap around, so ours never do
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
	if err != nil {
		return b, true, Plain(err)
	}
	return b, true, explain(resp)
}

// identify asks for a new producer id. The library's own call first looks for a
// transaction coordinator, which makes brokers create its topic.
func (p *Producer) identify(ctx context.Context) (identity, error) {
	m, err := p.client.Transport.RoundTrip(ctx, p.client.Addr, &initProducer{ProducerID: -1, ProducerEpoch: -1})
	if err != nil {
		return identity{}, fmt.Errorf("request a producer id: %w", err)
	}
	resp := m.(*initproducerid.Response)
	if resp.ErrorCode != 0 {
		return identity{}, fmt.Errorf("request a producer id: %w", kafkago.Error(resp.ErrorCode))
	}
	return identity{producer: resp.ProducerID, epoch: resp.ProducerEpoch}, nil
}

// initProducer is the library's request without its Transaction method, so
// that it goes to any broker.
type initProducer initproducerid.Request

func (*initProducer) ApiKey() protocol.ApiKey { return protocol.InitProducerId }
