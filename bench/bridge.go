package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// benchBridge measures deliveries of one partition: order by key, 1,000 keys, 64
// posts in flight. The yardstick posts the same bodies from memory, without
// order, over 64 connections of net/http.
func benchBridge(ctx context.Context, r *rig, t *table) error {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		goal, what := atLeast(1), "instant sink"
		if delay > 0 {
			goal, what = atLeast(0.97), fmt.Sprint("sink takes ", delay)
		}
		n := r.n(20_000)
		plain, err := r.plain(ctx, delay, 64, n)
		if err != nil {
			return err
		}
		ours, err := r.deliver(ctx, delay, 1, n)
		if err != nil {
			return err
		}
		t.against(what+": deliveries", perSecond, ours.rate, plain.rate, goal)
		t.against(what+": CPU per delivery", seconds, ours.cpu, plain.cpu, atMost(1))
		t.figure(fmt.Sprintf("%s: connections for %s deliveries", what, grouped(float64(n))), count, ours.conns, atMost(64))
	}
	return nil
}

// benchPartitions measures 12 partitions at once. 768 posts of 5 ms at a time
// are more than a small machine can do, so that the CPU is the yardstick's limit.
func benchPartitions(ctx context.Context, r *rig, t *table) error {
	const delay, partitions = 5 * time.Millisecond, 12
	n := r.n(60_000)
	plain, err := r.plain(ctx, delay, 64*partitions, n)
	if err != nil {
		return err
	}
	ours, err := r.deliver(ctx, delay, partitions, n)
	if err != nil {
		return err
	}
	t.against("sink takes 5ms: deliveries", perSecond, ours.rate, plain.rate, atLeast(0.97))
	t.against("sink takes 5ms: CPU per delivery", seconds, ours.cpu, plain.cpu, atMost(1))
	return nil
}

// delivered is what n deliveries took.
type delivered struct {
	rate  float64 // events a second
	cpu   float64 // seconds for each event
	conns float64
	posts int
}

func newDelivered(sink *target, cpu float64, n int) delivered {
	_, posts := sink.count()
	return delivered{rate: float64(n) / sink.seconds(), cpu: cpu / float64(n), conns: float64(sink.conns.Load()), posts: posts}
}

// plain is the yardstick.
func (r *rig) plain(ctx context.Context, delay time.Duration, conns, n int) (delivered, error) {
	r.say("plain client, %d connections, sink takes %v", conns, delay)
	sink := newTarget(delay, n)
	defer sink.close()
	p, err := r.yardstick("post", sink.URL, strconv.Itoa(conns), strconv.Itoa(n))
	if err != nil {
		return delivered{}, err
	}
	if err := sink.wait(ctx); err != nil {
		return delivered{}, err
	}
	if err := p.Wait(); err != nil {
		return delivered{}, fmt.Errorf("plain client: %w", err)
	}
	return newDelivered(sink, p.cpu(), n), nil
}

// deliver lets the bridge work off a backlog of n events.
func (r *rig) deliver(ctx context.Context, delay time.Duration, partitions, n int, more ...string) (delivered, error) {
	r.say("bridge, %d partitions, sink takes %v %v", partitions, delay, more)
	b, err := r.broker(ctx, partitions)
	if err != nil {
		return delivered{}, err
	}
	tasks, all := bodies(n, min(n, 1000))
	if len(more) > 0 { // batches: as many keys as events, so that they may be as large as they can
		tasks, all = bodies(n, n)
	}
	if err := b.fill(ctx, tasks, all); err != nil {
		return delivered{}, err
	}
	sink := newTarget(delay, n)
	defer sink.close()
	p, err := r.bridge(ctx, b, sink.URL, more...)
	if err != nil {
		return delivered{}, err
	}
	if err := sink.wait(ctx); err != nil {
		return delivered{}, err
	}
	cpu, err := p.stop()
	if err != nil {
		return delivered{}, err
	}
	return newDelivered(sink, cpu, n), b.close()
}

// bridge starts the bridge with one subscription to url, and waits until it is ready.
func (r *rig) bridge(ctx context.Context, b *broker, url string, more ...string) (*proc, error) {
	settings, err := r.bridgeSettings(b, url, more...)
	if err != nil {
		return nil, err
	}
	return r.service(ctx, "bridge", settings...)
}

func (r *rig) bridgeSettings(b *broker, url string, more ...string) ([]string, error) {
	config := filepath.Join(r.sub("bridge"), "bridge.yaml")
	lines := append([]string{"topic: " + b.topic, "subscriptions:", "  - name: bench", "    group: " + b.topic, "    sink: " + url,
		"    concurrency: 64", "    order: key", "    exhausted: block"}, more...)
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	return append(b.settings(), "BRIDGE_CONFIG="+config, "KAFKA_GROUP_INSTANCE_ID=bench-0"), nil
}
