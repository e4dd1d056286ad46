package main

import (
	"context"
	"time"
)

// benchBatch measures deliveries in mode batch against single posts of the
// plain client. Every event has a key of its own, so that order limits no batch.
func benchBatch(ctx context.Context, r *rig, t *table) error {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		goal, what := atLeast(5), "instant sink"
		if delay > 0 {
			goal, what = none, "sink takes 5ms"
		}
		n := r.n(100_000)
		plain, err := r.plain(ctx, delay, 64, r.n(20_000))
		if err != nil {
			return err
		}
		ours, err := r.deliver(ctx, delay, 1, n, "    mode: batch")
		if err != nil {
			return err
		}
		t.against(what+": events", perSecond, ours.rate, plain.rate, goal)
		t.against(what+": CPU per event", seconds, ours.cpu, plain.cpu, none)
		t.figure(what+": events in a post", count, float64(n)/float64(max(1, ours.posts)), none)
	}
	return nil
}
