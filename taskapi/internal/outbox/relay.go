package outbox

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/internal/trace"
)

const (
	// idle bounds the wait for a wake-up: rows that an earlier process left are
	// found even if nothing ever commits.
	idle     = 5 * time.Second
	logEvery = 10 * time.Second
)

// Config is what a Relay needs beside its source and its publisher.
type Config struct {
	Topic string
	Mode  event.Mode // of the records; "" is structured
	// Encoder, if set, makes the records, in place of Mode.
	Encoder Encoder
	// Prepare, if set, must succeed before the first batch: it makes sure that the topic exists and that there is
	// a schema. While it fails the events wait.
	Prepare  func(ctx context.Context) error
	Log      *slog.Logger
	Registry prometheus.Registerer // nil for none
	Tracer   *trace.Tracer         // nil for no spans
}

// Relay publishes what a Source holds. Run and Flush must not overlap.
type Relay struct {
	cfg       Config
	source    Source
	publisher Publisher
	spans     *trace.Producer
	published prometheus.Counter
	failures  prometheus.Counter

	// Owned by the goroutine in Run or Flush.
	prepared bool
	lanes    []lane       // by partition
	front    int64        // of what was looked at: such a row is published, or in a lane, or one that a lane is behind with
	settled  int64        // at most front: up to here no row can appear that was not looked at
	busy     int          // attempts under way
	done     chan outcome // of them; it has room for all
	unmarked []int64      // acknowledged and not marked
	marked   int64        // since the flush began
	failing  time.Time    // start of the outage, zero when there is none
	lastErr  error        // of an attempt
	warning  rate.Sometimes
	backoff  retry.Backoff // of what concerns all lanes
}

// New makes a relay and registers its metrics.
func New(cfg Config, source Source, publisher Publisher) *Relay {
	r := &Relay{
		cfg: cfg, source: source, publisher: publisher, spans: cfg.Tracer.Producer(cfg.Topic),
		warning: rate.Sometimes{Interval: logEvery},
		backoff: retry.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second},
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_outbox_published_total", Help: "Events acknowledged by Kafka and marked as published.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_outbox_failures_total", Help: "Attempts to publish a batch that failed.",
		}),
	}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(r.published, r.failures, backlogCollector{source})
	}
	return r
}

// Run publishes until ctx ends. It waits out an outage of Kafka or of the
// store, so it never fails. It may run again, after the relay of another process:
// it then begins with what is unpublished, and not with what it held before.
func (r *Relay) Run(ctx context.Context) {
	r.lanes = nil
	for ctx.Err() == nil {
		found, err := r.round(ctx)
		switch {
		case err != nil:
			r.failed(ctx, err)
			_ = r.backoff.Wait(ctx) // the loop ends with ctx
			continue
		case !found:
			r.sleep(ctx)
		}
		r.backoff.Reset()
		r.recovered()
	}
	if err := r.finish(ctx); err != nil {
		r.failed(ctx, err)
	}
}

// Flush publishes what waits when it is called, until ctx ends or nothing but failed
// attempts remain, and logs how much waits for the next start. What other processes
// commit meanwhile is theirs to publish.
func (r *Relay) Flush(ctx context.Context) error {
	err := r.flush(ctx)
	backlog, countErr := r.source.Backlog(context.WithoutCancel(ctx))
	switch {
	case countErr != nil:
		return fmt.Errorf("flush the outbox: %w", countErr)
	case err != nil && backlog.Count > 0:
		r.cfg.Log.Warn("outbox not empty, its events will be published after the next start", "pending", backlog.Count, "err", err)
	}
	return nil
}

func (r *Relay) flush(ctx context.Context) error {
	backlog, err := r.source.Backlog(ctx)
	if err != nil {
		return err
	}
	r.lastErr, r.marked = nil, 0
	for i := range r.lanes {
		r.lanes[i].again = time.Time{}
	}
	for {
		found, err := r.round(ctx)
		switch {
		case err != nil:
			_ = r.finish(ctx) // the rows are still in the outbox
			return err
		case found && r.marked < backlog.Count:
		case r.busy > 0:
			r.settle(ctx, <-r.done)
		default:
			return cmp.Or(r.mark(ctx), r.lastErr)
		}
	}
}

// round marks, reads and produces. It does not wait for lanes whose last attempt
// failed. The order is the guarantee: a row is marked only after its record is
// durable, and the next row of its lane is read only after the mark, so nothing is
// skipped and nothing overtakes. found asks for another round at once.
func (r *Relay) round(ctx context.Context) (found bool, err error) {
	if err := r.mark(ctx); err != nil {
		return false, err
	}
	if r.idle() {
		if err := r.shape(ctx); err != nil {
			return false, err
		}
	}
	if found, err = r.gather(ctx); err != nil {
		return false, err
	}
	if found {
		failpoint.Hit("R1")
	}
	r.dispatch(ctx)
	return r.collect(ctx) || found, nil
}

// finish takes the outcomes of the attempts under way and marks them.
func (r *Relay) finish(ctx context.Context) error {
	for r.busy > 0 {
		r.settle(ctx, <-r.done)
	}
	return r.mark(ctx)
}

// prepare makes sure that the topic exists.
func (r *Relay) prepare(ctx context.Context) error {
	if r.prepared || r.cfg.Prepare == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if err := r.cfg.Prepare(ctx); err != nil {
		return err
	}
	r.prepared = true
	return nil
}

// failed counts, and logs at most every logEvery.
func (r *Relay) failed(ctx context.Context, err error) {
	r.failures.Inc()
	if r.failing.IsZero() {
		r.failing = time.Now()
	}
	r.warning.Do(func() {
		backlog, _ := r.source.Backlog(ctx) // the count is only for the reader of the line
		r.cfg.Log.Warn("publishing failed, events wait in the outbox", "topic", r.cfg.Topic, "pending", backlog.Count,
			"outage", time.Since(r.failing).Round(time.Second).String(), "err", err)
	})
}

func (r *Relay) recovered() {
	if r.failing.IsZero() || slices.ContainsFunc(r.lanes, func(l lane) bool { return l.failing }) {
		return
	}
	r.cfg.Log.Info("publishing works again", "topic", r.cfg.Topic, "outage", time.Since(r.failing).Round(time.Second).String())
	r.failing = time.Time{}
	r.warning = rate.Sometimes{Interval: logEvery} // the next outage is logged at once
}

// sleep ends early when the source has something new, an attempt ends, or a lane
// may try again.
func (r *Relay) sleep(ctx context.Context) {
	pause := idle
	for _, l := range r.lanes {
		if !l.free() && !l.busy {
			pause = max(0, min(pause, time.Until(l.again)))
		}
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-r.source.Wake():
	case o := <-r.done:
		r.settle(ctx, o)
	case <-timer.C:
	}
}
