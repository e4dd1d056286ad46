package main

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// benchOutage lets a sink answer 503 without Retry-After for a while, and
// measures how soon the bridge notices that it is back.
func benchOutage(ctx context.Context, r *rig, t *table) error {
	n := r.n(1000)
	tasks, all := bodies(n, min(n, 1000))
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, tasks, all); err != nil {
		return err
	}
	sink := newTarget(0, n)
	defer sink.close()
	sink.down.Store(true)
	p, err := r.bridge(ctx, b, sink.URL)
	if err != nil {
		return err
	}
	down := r.window(40 * time.Second)
	r.say("the sink answers 503 for %v", down)
	if err := retry.Pause(ctx, down); err != nil {
		return err
	}
	back := time.Now()
	sink.down.Store(false)
	if err := sink.wait(ctx); err != nil {
		return err
	}
	t.figure("sink is back to the first delivery", seconds, sink.first.Sub(back).Seconds(), atMost(5))
	t.figure("sink is back to the last of 1,000", seconds, sink.last.Sub(back).Seconds(), none)
	if _, err := p.stop(); err != nil {
		return err
	}
	return b.close()
}
