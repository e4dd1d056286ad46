// Package control keeps what operators want of subscriptions where every replica
// of the bridge finds it, also after a restart: on the compacted topic
// taskwire-control. The key of a record is the name of a subscription, its value
// {"paused", "reason", "by", "at"}; the last record of a key counts.
//
// # Order of effects
//
// A subscription delivers only when its replica has read the topic up to the end
// that it had when the reading began; so a pause that was answered with 200 holds
// whichever replica dies and starts again. A pause is answered when all in-sync
// brokers have its record and this replica has read it back. The other replicas
// read it by a long poll, a moment later; posts that are in flight there finish.
//
// A replica that cannot read the topic keeps what it knows. One that starts waits
// until it can. Only a topic that does not exist, and that the bridge may not
// create, stands for no pause at all: nobody can have asked for one.
//
// Whoever may write the topic can pause and resume. A record that cannot be read
// pauses: after a compaction nobody could say what was in its place before.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// Topic is where pauses are kept. It has one partition and is compacted.
const Topic = "taskwire-control"

const (
	maxWait      = 5 * time.Second // of a long poll
	fetchTimeout = 10 * time.Second
	maxAnswer    = 8 << 20
	maxRecord    = 16 << 10
	// A broker that has just started may not know of a topic yet, so one missing
	// answer is no proof.
	missingFor = 3 * time.Second
	lookAgain  = 10 * time.Second // for a topic that was missing
)

// Producer stores records durably: when it returns nil, every in-sync replica has them.
type Producer interface {
	Produce(ctx context.Context, topic string, records []event.Record) error
}

// Control follows the topic. Use New.
type Control struct {
	client   *kafkago.Client
	producer Producer
	create   bool
	log      *slog.Logger
	turn     chan struct{} // held by the write under way, so that writes of this replica are stored in their order
	joined   chan struct{} // has a token when a gate is new
	gone     chan struct{} // has a token when a sink asked for a pause
	wrong    bool          // it was logged that the topic is not compacted; owned by Run

	mu      sync.Mutex
	gates   map[string]*Gate
	pending map[string]chan struct{} // own writes by their id, closed when they are read back
	missing error                    // why nothing can be stored; nil when the topic is there
	end     int64                    // of the topic when it was last read from its start
}

// New returns a control of the topic on the brokers of client. With create it
// creates a missing topic. It connects to nothing.
func New(client *kafkago.Client, producer Producer, create bool, log *slog.Logger) *Control {
	return &Control{client: client, producer: producer, create: create, log: log.With("topic", Topic), turn: make(chan struct{}, 1),
		joined: make(chan struct{}, 1), gone: make(chan struct{}, 1), gates: map[string]*Gate{}, pending: map[string]chan struct{}{}}
}

// Gate is the gate of a subscription. A new one is shut until Run has read the
// topic for it.
func (c *Control) Gate(name string) *Gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.gates[name]
	if g == nil {
		g = newGate(name, c)
		c.gates[name] = g
		wake(c.joined)
	}
	return g
}

// Run follows the topic until ctx ends.
func (c *Control) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.storeGone(ctx) })
	c.follow(ctx)
	wg.Wait()
}

func (c *Control) follow(ctx context.Context) {
	pace := retry.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	report := rate.Sometimes{Interval: 10 * time.Second}
	var absent time.Time // since when the topic is missing
	for ctx.Err() == nil {
		err := c.read(ctx, func() { pace.Reset(); absent = time.Time{} })
		var missing *kafka.MissingTopicError
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case !errors.As(err, &missing):
			absent = time.Time{}
		case absent.IsZero():
			absent = time.Now()
		case time.Since(absent) >= missingFor:
			c.noTopic(err)
			c.rest(ctx)
			continue
		}
		c.unavailable(err)
		report.Do(func() { c.log.Warn("topic of the pauses cannot be read, retrying", "err", err) })
		kafka.Forget(c.client) // a leader may have moved
		_ = pace.Wait(ctx)     // the loop looks at ctx
	}
}

// rest waits until it is time to look for a missing topic again.
func (c *Control) rest(ctx context.Context) {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-c.joined:
	}
}

// read reads the topic from its start, opens the gates that wait for that, and
// goes on with new records. It returns nil when there is a new gate: its record
// may be far back. Up to the end that the topic has now only the last record of
// a key is applied, so that no gate opens for a moment on the way.
func (c *Control) read(ctx context.Context, success func()) error {
	waiting := c.waiting()
	first, end, err := c.bounds(ctx)
	if err != nil {
		return err
	}
	c.begin(end)
	old := backlog{last: map[string]fetch.Record{}}
	for offset := first; offset < end; {
		joined := false
		if offset, joined, err = c.readOnce(ctx, offset, func(rec fetch.Record) { c.keep(&old, rec) }); err != nil || joined {
			return err
		}
		first = offset
	}
	c.applyAll(old)
	c.open(waiting)
	success()
	c.checkCompacted(ctx)
	for offset := first; ; {
		joined := false
		if offset, joined, err = c.readOnce(ctx, offset, c.apply); err != nil || joined {
			return err
		}
	}
}

// bounds returns the first offset of the topic and its end now.
func (c *Control) bounds(ctx context.Context) (first, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if err := kafka.EnsureCompacted(ctx, c.client, Topic, c.create); err != nil {
		return 0, 0, err
	}
	n, err := kafka.Partitions(ctx, c.client, Topic)
	switch {
	case err != nil:
		return 0, 0, err
	case n != 1:
		return 0, 0, fmt.Errorf("topic %s has %d partitions and must have one: delete it and create it again", Topic, n)
	}
	all, err := kafka.TopicBounds(ctx, c.client, Topic, n)
	if err != nil {
		return 0, 0, err
	}
	return all[0].First, all[0].End, nil
}

// readOnce takes one answer. joined reports that there is a new gate.
func (c *Control) readOnce(ctx context.Context, offset int64, apply func(fetch.Record)) (next int64, joined bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	interrupted := make(chan bool, 1)
	go func() { // waited for below
		select {
		case <-c.joined:
			cancel()
			interrupted <- true
		case <-ctx.Done():
			interrupted <- false
		}
	}()
	answer, err := fetch.Fetch(ctx, c.client, fetch.Request{Topic: Topic, Offset: offset, MaxBytes: 1 << 20, MaxWait: maxWait, Grant: grant})
	cancel()
	if <-interrupted {
		return offset, true, nil
	}
	if err != nil {
		return offset, false, fmt.Errorf("read topic %s at offset %d: %w", Topic, offset, err)
	}
	if len(answer.Batches) == 0 { // compaction may have removed all up to the end
		return max(offset, answer.End), false, nil
	}
	next, err = c.take(answer.Batches, offset, apply)
	return next, false, err
}

func grant(_ context.Context, size int) error {
	if size > maxAnswer {
		return fmt.Errorf("the answer has %d bytes, more than the %d that pauses can need: delete the topic and create it again", size, maxAnswer)
	}
	return nil
}

// checkCompacted warns when pauses will be forgotten. Without the right to ask
// there is no warning.
func (c *Control) checkCompacted(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	compacted, err := kafka.IsCompacted(ctx, c.client, Topic)
	if err != nil || compacted {
		c.wrong = false
		return
	}
	if !c.wrong {
		c.log.Error("topic of the pauses is not compacted, so Kafka will delete them and a restarted bridge delivers again",
			"command", "kafka-configs.sh --alter --topic "+Topic+" --add-config cleanup.policy=compact")
	}
	c.wrong = true
}
