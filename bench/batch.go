package main

import (
	"context"
	"fmt"
	"time"
)

// benchBatch measures deliveries in mode batch against single posts of a plain
// client, with as many keys as events, so that batches may be as large as they can.
func benchBatch(ctx context.Context, r *rig) error {
	tasks, all := bodies(deliveries, deliveries)
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		plain, plainCPU, _, err := r.plain(ctx, delay)
		if err != nil {
			return err
		}
		b, err := r.broker()
		if err != nil {
			return err
		}
		if err := fill(ctx, b.Addr(), tasks, all); err != nil {
			return err
		}
		sink := newTarget(delay, deliveries)
		p, err := r.bridge(ctx, b.Addr(), sink.URL, 64, "    mode: batch")
		if err != nil {
			return err
		}
		if err := sink.wait(ctx); err != nil {
			return err
		}
		cpu, err := p.stop()
		if err != nil {
			return err
		}
		ours := sink.seconds()
		report(fmt.Sprintf("deliveries in batches, sink takes %v, against single posts of a plain client", delay), rate(deliveries, ours), plain/ours, ">= 5")
		report("  CPU per 1,000 deliveries", fmt.Sprintf("%.0f ms", cpu*1e6/deliveries), cpu/plainCPU, "<= 1")
		_, posts := sink.count()
		note("  events in a post", fmt.Sprint(deliveries/max(1, posts)))
		sink.close()
		if err := b.Close(); err != nil {
			return err
		}
	}
	return nil
}
