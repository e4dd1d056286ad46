package main

import (
	"context"
	"time"
)

// benchLatency measures the time from producing an event to its arrival at the
// sink, at 200 events a second. The yardstick is the least that a bridge can do:
// poll, post one event after the other, commit each second. It begins before
// Kafka's acknowledgement, because that reaches the producer later than the event
// reaches a sink, now and then.
func benchLatency(ctx context.Context, r *rig, t *table) error {
	r.say("poll-and-post loop")
	loop50, loop99, err := r.latency(ctx, func(b *broker, url string) (*proc, error) { return r.yardstick("loop", b.addr, b.topic, url) })
	if err != nil {
		return err
	}
	r.say("bridge")
	ours50, ours99, err := r.latency(ctx, func(b *broker, url string) (*proc, error) { return r.bridge(ctx, b, url) })
	if err != nil {
		return err
	}
	t.against("produced to arrived at the sink, p50", seconds, ours50, loop50, atMost(1))
	t.against("produced to arrived at the sink, p99", seconds, ours99, loop99, atMost(1))
	return nil
}

func (r *rig) latency(ctx context.Context, start func(b *broker, url string) (*proc, error)) (p50, p99 float64, err error) {
	n := r.n(2000)
	tasks, all := bodies(n, min(n, 1000))
	b, err := r.broker(ctx, 1)
	if err != nil {
		return 0, 0, err
	}
	sink := newTarget(0, n)
	defer sink.close()
	p, err := start(b, sink.URL)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = p.kill() }() // its figures are taken
	cl, err := b.producer()
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	produced := make(map[string]time.Time, n)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range all {
		<-tick.C
		produced[eventID(all[i])] = time.Now()
		if err := cl.ProduceSync(ctx, record(tasks[i], all[i])).FirstErr(); err != nil {
			return 0, 0, err
		}
	}
	if err := sink.wait(ctx); err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	for id, at := range produced {
		took = append(took, sink.seen[id].Sub(at))
	}
	p50, p99 = percentiles(took)
	return p50, p99, b.close()
}
