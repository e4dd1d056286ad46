package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

const deliveries = 20_000

// benchBridge measures deliveries of one partition: order by key, 1,000 keys, 64 posts in flight.
func benchBridge(ctx context.Context, r *rig) error {
	tasks, all := bodies(deliveries, 1000)
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		goal := ">= 0.8"
		if delay > 0 {
			goal = ">= 0.95"
		}
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
		p, err := r.bridge(ctx, b.Addr(), sink.URL, 64)
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
		what := fmt.Sprintf("deliveries, sink takes %v, against a plain client", delay)
		report(what, rate(deliveries, ours), plain/ours, goal)
		note("  the plain client", rate(deliveries, plain))
		report("  CPU per 1,000 deliveries", fmt.Sprintf("%.0f ms", cpu*1e6/deliveries), cpu/plainCPU, "<= 2")
		note("  TCP connections opened (64 in flight)", fmt.Sprint(sink.conns.Load()))
		sink.close()
		if err := b.Close(); err != nil {
			return err
		}
	}
	return nil
}

// plain is the yardstick: it posts the same bodies from memory over 64 kept connections.
func (r *rig) plain(ctx context.Context, delay time.Duration) (seconds, cpu float64, conns int64, err error) {
	sink := newTarget(delay, deliveries)
	defer sink.close()
	p, err := r.yardstick("post", sink.URL)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := sink.wait(ctx); err != nil {
		return 0, 0, 0, err
	}
	if err := p.Wait(); err != nil {
		return 0, 0, 0, fmt.Errorf("plain client: %w", err)
	}
	return sink.seconds(), p.cpu(), sink.conns.Load(), nil
}

// bridge starts the bridge with one subscription to url.
func (r *rig) bridge(ctx context.Context, broker, url string, concurrency int, more ...string) (*proc, error) {
	config := filepath.Join(r.sub("bridge"), "bridge.yaml")
	lines := append([]string{"topic: task-events", "subscriptions:", "  - name: bench", "    group: bench", "    sink: " + url,
		fmt.Sprintf("    concurrency: %d", concurrency), "    order: key", "    exhausted: block"}, more...)
	err := os.WriteFile(config, []byte(join(lines...)), 0o600)
	if err != nil {
		return nil, err
	}
	return r.service(ctx, "bridge", "KAFKA_BOOTSTRAP_SERVERS="+broker, "BRIDGE_CONFIG="+config, "KAFKA_GROUP_INSTANCE_ID=bench-0")
}

// benchRestart kills the bridge in the middle of its work and restarts it at once.
func benchRestart(ctx context.Context, r *rig) error {
	const n = 4000
	tasks, all := bodies(n, 1000)
	b, err := r.broker()
	if err != nil {
		return err
	}
	defer b.Close()
	if err := fill(ctx, b.Addr(), tasks, all); err != nil {
		return err
	}
	sink := newTarget(5*time.Millisecond, n)
	defer sink.close()
	p, err := r.bridge(ctx, b.Addr(), sink.URL, 64)
	if err != nil {
		return err
	}
	for events, _ := sink.count(); events < n/4; events, _ = sink.count() {
		if err := retry.Pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	if err := p.kill(); err != nil {
		return err
	}
	killed := time.Now()
	before, postsBefore := sink.count()
	if p, err = r.bridge(ctx, b.Addr(), sink.URL, 64); err != nil {
		return err
	}
	if err := sink.wait(ctx); err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	next := time.Hour
	sink.mu.Lock()
	for _, at := range sink.seen {
		if d := at.Sub(killed); d > 50*time.Millisecond && d < next {
			next = d
		}
	}
	again := sink.posts - postsBefore - (n - before)
	sink.mu.Unlock()
	report("first new delivery after SIGKILL and restart", next.Round(time.Millisecond).String(), next.Seconds(), "<= 1 s")
	note("  posted twice (64 were in flight)", fmt.Sprint(again))
	return nil
}

func (t *target) count() (events, posts int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen), t.posts
}

// benchLatency measures the time from Kafka's acknowledgement to the arrival at the sink, at 200 events a second.
func benchLatency(ctx context.Context, r *rig) error {
	loop50, loop99, err := r.latency(ctx, func(broker, url string) (*proc, error) { return r.yardstick("loop", broker, url) })
	if err != nil {
		return err
	}
	ours50, ours99, err := r.latency(ctx, func(broker, url string) (*proc, error) { return r.bridge(ctx, broker, url, 64) })
	if err != nil {
		return err
	}
	report("Kafka ack to sink at 200/s, p50, against poll-and-post", ours50.String(), float64(ours50)/float64(loop50), "<= 1.0")
	report("  p99", ours99.String(), float64(ours99)/float64(loop99), "<= 1.0")
	note("  the bare loop, p50 / p99", fmt.Sprint(loop50, " / ", loop99))
	return nil
}

func (r *rig) latency(ctx context.Context, start func(broker, url string) (*proc, error)) (p50, p99 time.Duration, err error) {
	const n = 2000
	tasks, all := bodies(n, 1000)
	b, err := r.broker()
	if err != nil {
		return 0, 0, err
	}
	defer b.Close()
	sink := newTarget(0, n)
	defer sink.close()
	p, err := start(b.Addr(), sink.URL)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = p.kill() }() // its figures are taken
	cl, err := producer(b.Addr())
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	acked := make(map[string]time.Time, n)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range all {
		<-tick.C
		if err := cl.ProduceSync(ctx, record(tasks[i], all[i])).FirstErr(); err != nil {
			return 0, 0, err
		}
		acked[eventID(all[i])] = time.Now()
	}
	if err := sink.wait(ctx); err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	for id, at := range acked {
		took = append(took, sink.seen[id].Sub(at))
	}
	p50, p99 = percentiles(took)
	return p50.Round(time.Microsecond), p99.Round(time.Microsecond), nil
}
