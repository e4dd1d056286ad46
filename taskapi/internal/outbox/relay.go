package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	batchRows  = 1000
	batchBytes = 512 << 10 // stays below the 1 MiB that brokers accept as one batch by default
	// attempt bounds one produce, so that an outage is noticed and logged.
	attempt = 5 * time.Second
	// idle bounds the wait for a wake-up: rows that an earlier process left are
	// found even if nothing ever commits.
	idle     = 5 * time.Second
	logEvery = 10 * time.Second
)

// Config is what a Relay needs beside its source and its publisher.
type Config struct {
	Topic string
	Mode  event.Mode // of the records; "" is structured
	// Prepare, if set, must succeed before the first batch: it makes sure that the topic exists.
	Prepare  func(ctx context.Context) error
	Log      *slog.Logger
	Registry prometheus.Registerer // nil for none
}

// Relay publishes what a Source holds. Run and Flush must not overlap.
type Relay struct {
	cfg       Config
	source    Source
	publisher Publisher
	published prometheus.Counter
	failures  prometheus.Counter

	// Owned by the goroutine in Run or Flush.
	prepared bool
	failing  time.Time // start of the outage, zero when there is none
	warning  rate.Sometimes
	backoff  retry.Backoff
}

// New makes a relay and registers its metrics.
func New(cfg Config, source Source, publisher Publisher) *Relay {
	r := &Relay{
		cfg: cfg, source: source, publisher: publisher,
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
// store, so it never fails.
func (r *Relay) Run(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := r.step(ctx)
		switch {
		case err != nil:
			r.failed(ctx, err)
			_ = r.backoff.Wait(ctx) // the loop ends with ctx
		case n == 0:
			r.sleep(ctx)
		default:
			r.recovered()
		}
	}
}

// Flush publishes what is left until ctx ends or an attempt fails, and logs
// how much remains for the next start.
func (r *Relay) Flush(ctx context.Context) error {
	for {
		n, err := r.step(ctx)
		if err == nil && n > 0 {
			continue
		}
		backlog, countErr := r.source.Backlog(context.WithoutCancel(ctx))
		switch {
		case countErr != nil:
			return fmt.Errorf("flush the outbox: %w", countErr)
		case err != nil && backlog.Count > 0:
			r.cfg.Log.Warn("outbox not empty, its events will be published after the next start", "pending", backlog.Count, "err", err)
		}
		return nil
	}
}

// step publishes one batch: read, produce, mark. The order is the guarantee:
// a row is marked only after its record is durable, and the next batch is read
// only after the mark, so nothing is skipped and nothing overtakes.
func (r *Relay) step(ctx context.Context) (int, error) {
	if err := r.prepare(ctx); err != nil {
		return 0, err
	}
	rows, err := r.source.Next(ctx, batchRows, batchBytes)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	failpoint.Hit("R1")
	recs, err := r.records(rows)
	if err != nil {
		return 0, err
	}
	failure := r.produce(ctx, recs)
	ids := acknowledged(rows, failure)
	if len(ids) > 0 {
		failpoint.Hit("R3")
		if len(ids) > 1 {
			failpoint.HitAfter("R4", func() { _ = r.source.Published(ctx, ids[:len(ids)/2]) })
		}
		if err := r.source.Published(context.WithoutCancel(ctx), ids); err != nil {
			return 0, errors.Join(fmt.Errorf("mark %d events as published: %w", len(ids), err), failure)
		}
		r.published.Add(float64(len(ids)))
		failpoint.Hit("R5")
	}
	if failure != nil {
		r.prepared = false // perhaps the topic is gone; preparing again finds the reason
		return 0, fmt.Errorf("publish %d events to %s: %w", len(rows), r.cfg.Topic, failure)
	}
	return len(rows), nil
}

// produce is one attempt. A stop does not cut off a batch in flight, since its
// answer saves a duplicate; the deadline of a flush does. During an outage no
// answer can be expected, and the stop need not wait for it.
func (r *Relay) produce(ctx context.Context, recs []event.Record) error {
	until := time.Now().Add(attempt)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	if r.failing.IsZero() {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return r.publisher.Produce(ctx, r.cfg.Topic, recs)
}

// prepare makes sure that the topic exists, again after each failure.
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

// acknowledged are the ids of the rows that are durable in Kafka.
func acknowledged(rows []Row, failure error) []int64 {
	var partial *PartialError
	if failure != nil && !errors.As(failure, &partial) {
		return nil
	}
	ids := make([]int64, 0, len(rows))
	for i, row := range rows {
		if failure == nil || partial.Acked[i] {
			ids = append(ids, row.ID)
		}
	}
	return ids
}

// records turns rows into Kafka records. In structured mode the stored bytes
// are the value: an event is never recreated.
func (r *Relay) records(rows []Row) ([]event.Record, error) {
	recs := make([]event.Record, len(rows))
	for i, row := range rows {
		if r.cfg.Mode == "" || r.cfg.Mode == event.ModeStructured {
			recs[i] = event.Structured(row.TaskID, row.Event)
			continue
		}
		e, err := event.Parse(row.Event)
		if err != nil {
			return nil, fmt.Errorf("read outbox row %d: %w", row.ID, err)
		}
		if recs[i], err = encode(r.cfg.Mode, e); err != nil {
			return nil, fmt.Errorf("encode outbox row %d: %w", row.ID, err)
		}
	}
	return recs, nil
}

func encode(mode event.Mode, e event.Event) (event.Record, error) {
	if mode == event.ModeEnvelope {
		return event.Envelope(e)
	}
	return event.Binary(e)
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
	if r.failing.IsZero() {
		return
	}
	r.cfg.Log.Info("publishing works again", "topic", r.cfg.Topic, "outage", time.Since(r.failing).Round(time.Second).String())
	r.failing = time.Time{}
	r.warning = rate.Sometimes{Interval: logEvery} // the next outage is logged at once
	r.backoff.Reset()
}

// sleep ends early when the source has something new.
func (r *Relay) sleep(ctx context.Context) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-r.source.Wake():
	case <-timer.C:
	}
}
