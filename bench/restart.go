package main

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// benchRestart kills the bridge in the middle of its work and starts it again at
// once. A post that the sink had not answered when the signal was sent was in
// flight: nobody can know about it, so it is posted again by right. Those that
// had been answered and are posted again are the price of commits.
func benchRestart(ctx context.Context, r *rig, t *table) error {
	n := r.n(8000)
	tasks, all := bodies(n, min(n, 1000))
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, tasks, all); err != nil {
		return err
	}
	sink := newTarget(5*time.Millisecond, n)
	defer sink.close()
	r.say("bridge, killed after a quarter of %d events", n)
	p, err := r.bridge(ctx, b, sink.URL)
	if err != nil {
		return err
	}
	if err := await(ctx, func() bool { events, _ := sink.count(); return events >= n/4 }); err != nil {
		return err
	}
	killed := time.Now()
	if err := p.kill(); err != nil {
		return err
	}
	// What the dead process had sent is answered to nobody, and counts as posted once.
	if err := await(ctx, func() bool { return sink.active.Load() == 0 }); err != nil {
		return err
	}
	restarted := time.Now()
	if p, err = r.bridge(ctx, b, sink.URL); err != nil {
		return err
	}
	if err := sink.wait(ctx); err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	next, inFlight := sink.since(restarted), sink.answeredBetween(killed, restarted)
	again := sink.again
	t.figure("restart to the next delivery", seconds, next.Seconds(), atMost(1))
	t.figure("posts in flight when it was killed", count, float64(inFlight), none)
	t.figure("posted again beyond those", count, float64(max(0, again-inFlight)), atMost(8))
	return b.close()
}

// since is how long after at the next new event was answered.
func (t *target) since(at time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := time.Hour
	for _, seen := range t.seen {
		if d := seen.Sub(at); d > 0 {
			next = min(next, d)
		}
	}
	return next
}

func (t *target) answeredBetween(from, to time.Time) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seen := range t.seen {
		if seen.After(from) && seen.Before(to) {
			n++
		}
	}
	return n
}

// await polls what the sinks count in this process.
func await(ctx context.Context, condition func() bool) error {
	for !condition() {
		if err := retry.Pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
