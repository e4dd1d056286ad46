package main

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// benchIdle measures a bridge with 200 partitions in which nothing happens any
// more: each has had an event, and a bridge may keep for a while what it took for that.
func benchIdle(ctx context.Context, r *rig, t *table) error {
	const partitions = 200
	b, err := r.broker(ctx, partitions)
	if err != nil {
		return err
	}
	sink := newTarget(0, partitions)
	defer sink.close()
	p, err := r.bridge(ctx, b, sink.URL)
	if err != nil {
		return err
	}
	r.say("bridge, %d partitions", partitions)
	if err := b.spread(ctx, partitions); err != nil {
		return err
	}
	if err := sink.wait(ctx); err != nil {
		return err
	}
	if err := retry.Pause(ctx, r.window(25*time.Second)); err != nil {
		return err
	}
	before, err := cpuOf(p.Pid())
	if err != nil {
		return err
	}
	watched := r.window(15 * time.Second)
	if err := retry.Pause(ctx, watched); err != nil {
		return err
	}
	after, err := cpuOf(p.Pid())
	if err != nil {
		return err
	}
	t.figure("CPU of one core", percent, 100*(after-before)/watched.Seconds(), atMost(1))
	rss, err := p.memory("VmRSS")
	if err != nil {
		return err
	}
	t.figure("memory (RSS)", bytes_, rss, atMost(40<<20))
	goroutines, err := p.metric(ctx, "go_goroutines")
	if err != nil {
		return err
	}
	t.figure("goroutines", count, goroutines, atMost(1500))
	conns, err := connections(p.Pid(), b.addr)
	if err != nil {
		return err
	}
	t.figure("connections to the broker", count, float64(conns), atMost(8))
	if _, err := p.stop(); err != nil {
		return err
	}
	return b.close()
}
