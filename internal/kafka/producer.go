package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// attemptTimeout bounds one request. A request to a broker that hangs is
	// abandoned then; the broker may spend half of it waiting for its replicas.
	attemptTimeout = 10 * time.Second
	backoffMin     = 10 * time.Millisecond
	backoffMax     = 500 * time.Millisecond
	// missingTries outlast the moment in which a new topic is not known everywhere.
	missingTries = 8
)

// Producer writes records and reports success only when every in-sync replica
// has them: acks=all, idempotent, keys placed as Java producers place them.
//
// Within a partition, records are stored in the order of one Produce call, and
// of consecutive calls. Each partition has its own producer identity and at
// most one batch in flight, so a batch is never sent before the previous one
// has been acknowledged.
//
// Its methods may be called from several goroutines. It has no goroutine of
// its own and nothing to close.
type Producer struct {
	client *kafkago.Client
	log    *slog.Logger
	now    func() time.Time // of this machine, which may be wrong
	turn   atomic.Uint32    // chooses the partition for the keyless records of the next call

	mu         sync.Mutex // guards the fields below
	partitions map[place]*partition
	refreshed  time.Time
	wrongClock rate.Sometimes // warnings about it
}

// NewProducer sends through client, which it does not close.
func NewProducer(client *kafkago.Client, log *slog.Logger) *Producer {
	own := *client
	own.Timeout = attemptTimeout
	return &Producer{
		client: &own, log: log, now: time.Now, partitions: map[place]*partition{},
		wrongClock: rate.Sometimes{Interval: time.Minute},
	}
}

// Produce returns nil when all records are stored. It retries everything that
// may be temporary, an unavailable broker included, until ctx ends; a topic that
// does not exist is reported within a second, as a *MissingTopicError. A refused
// record stops its partition, so that no later record overtakes it.
//
// The error is a *ProduceError. Records that it reports may still be stored;
// called with the same records again, in the same order, Produce resumes with
// the same sequence numbers and they are stored once. Called with other records,
// it first makes sure that the earlier ones can no longer arrive after them.
func (p *Producer) Produce(ctx context.Context, topic string, recs []event.Record) error {
	if len(recs) == 0 {
		return nil
	}
	n, err := p.Partitions(ctx, topic)
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

// Partitions returns the number of partitions of topic. It retries as Produce does.
func (p *Producer) Partitions(ctx context.Context, topic string) (int, error) {
	var delay time.Duration
	pace := retry.Backoff{Min: backoffMin, Max: backoffMax}
	for try := 1; ; try++ {
		started := time.Now()
		n, err := func() (int, error) {
			ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
			defer cancel()
			return lookUp(ctx, p.client, topic)
		}()
		if n > 0 {
			return n, nil // a partition without a leader stops only its own records
		}
		switch {
		case errors.Is(err, kafkago.UnknownTopicOrPartition) && try == missingTries:
			return 0, &MissingTopicError{Topic: topic, Brokers: p.client.Addr.String()}
		case judge(err, 1) == refused:
			return 0, err
		}
		p.log.Debug("topic lookup failed, retrying", "topic", topic, "attempt", try, "err", err)
		p.refresh(started)
		if cause := retry.Pause(ctx, delay); cause != nil {
			return 0, p.overdue(topic, err, cause)
		}
		delay = pace.Delay()
	}
}

// overdue returns the error of a call whose context ended: the cause, and the
// last failure before it.
func (p *Producer) overdue(topic string, err, cause error) error {
	if errors.Is(err, kafkago.UnknownTopicOrPartition) {
		err = &MissingTopicError{Topic: topic, Brokers: p.client.Addr.String()}
	}
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w (last error: %w)", cause, err)
}

// refresh makes the next attempt use live connections and current leaders. It
// does so once for all attempts that started before it.
func (p *Producer) refresh(started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refreshed.After(started) {
		return
	}
	p.refreshed = time.Now()
	Forget(p.client)
}
