package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/retry"
)

// backlog is how many events wait when the bridge starts, in all partitions together.
const backlog = 1_000_000

// benchMemory shows what the bridge takes at most in a container of 256 MiB,
// while it works off a backlog of compressed records for some seconds.
func benchMemory(ctx context.Context, r *rig, t *table) error {
	tasks, all := bodies(20_000, 1000)
	for _, c := range []struct {
		partitions, subscriptions int
		dead                      bool
	}{{1, 1, false}, {12, 1, false}, {48, 1, false}, {200, 1, false}, {1, 50, false}, {12, 1, true}, {200, 1, true}, {12, 50, true}} {
		if err := r.memory(ctx, t, tasks, all, c.partitions, c.subscriptions, c.dead); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) memory(ctx context.Context, t *table, tasks []string, all [][]byte, partitions, subscriptions int, dead bool) error {
	r.say("%d partitions, %d subscriptions", partitions, subscriptions)
	b, err := r.broker(ctx, partitions)
	if err != nil {
		return err
	}
	if err := b.fillCompressed(ctx, r.n(backlog), tasks, all); err != nil {
		return err
	}
	sink := newTarget(0, backlog)
	defer sink.close()
	url, state := sink.URL, "living"
	if dead {
		url, state = deadSink(), "dead"
	}
	p, err := r.service(ctx, "bridge", append(b.settings(), "BRIDGE_CONFIG="+r.many(b, subscriptions, url),
		"GOMEMLIMIT=230MiB", "MEMORY_BUDGET=80MiB")...) // what the programs choose in a container of 256 MiB
	if err != nil {
		return err
	}
	began := time.Now()
	if err := retry.Pause(ctx, r.window(15*time.Second)); err != nil {
		return err
	}
	_, posts := sink.count()
	took := time.Since(began).Seconds()
	peak, err := p.memory("VmHWM")
	if err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	what := fmt.Sprintf("%d partitions, %d subscriptions, %s sink", partitions, subscriptions, state)
	t.figure(what+": peak memory", bytes_, peak, atMost(256<<20))
	if !dead {
		t.figure(what+": delivered", perSecond, float64(posts)/took, none)
	}
	return b.close()
}

// many writes a configuration with n subscriptions to url.
func (r *rig) many(b *broker, n int, url string) string {
	var c bytes.Buffer
	fmt.Fprintf(&c, "topic: %s\nsubscriptions:\n", b.topic)
	for i := range n {
		fmt.Fprintf(&c, "  - {name: s%d, group: %s-%d, sink: %q, exhausted: block}\n", i, b.topic, i, url)
	}
	path := filepath.Join(r.sub("memory"), "bridge.yaml")
	if err := os.WriteFile(path, c.Bytes(), 0o600); err != nil {
		panic(err) // the folder exists
	}
	return path
}

// deadSink is an address that refuses connections.
func deadSink() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // a machine without a free port cannot run this at all
	}
	defer l.Close()
	return "http://" + l.Addr().String() + "/"
}

// fillCompressed puts the bodies on the topic again and again, with zstd, until
// there are enough.
func (b *broker) fillCompressed(ctx context.Context, n int, tasks []string, bodies [][]byte) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.DefaultProduceTopic(b.topic), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerLinger(50*time.Millisecond), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer cl.Close()
	failed := make(chan error, 1)
	for i := range n {
		cl.Produce(ctx, record(tasks[i%len(tasks)], bodies[i%len(bodies)]), func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
