package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/retry"
)

// backlog is how many events wait when the bridge starts, in all partitions together.
const backlog = 1_000_000

// benchMemory shows what the bridge takes at most in a container of 256 MiB,
// while it works off a backlog of compressed records for some seconds.
func benchMemory(ctx context.Context, r *rig) error {
	tasks, all := bodies(20_000, 1000)
	for _, c := range []struct {
		partitions, subscriptions int
		dead                      bool
	}{{1, 1, false}, {12, 1, false}, {48, 1, false}, {200, 1, false}, {1, 50, false}, {12, 1, true}, {200, 1, true}, {12, 50, true}} {
		if err := r.memory(ctx, tasks, all, c.partitions, c.subscriptions, c.dead); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) memory(ctx context.Context, tasks []string, all [][]byte, partitions, subscriptions int, dead bool) error {
	b, err := embedkafka.Start(embedkafka.Config{Addr: freeport.Addr(), Topics: map[string]int{"task-events": partitions, "task-events-dlq": 1, "taskwire-control": 1}})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := fillCompressed(ctx, b.Addr(), tasks, all); err != nil {
		return err
	}
	sink := newTarget(0, backlog)
	defer sink.close()
	url, state := sink.URL, "living"
	if dead {
		url, state = deadSink(), "dead"
	}
	p, err := r.service(ctx, "bridge", "KAFKA_BOOTSTRAP_SERVERS="+b.Addr(), "BRIDGE_CONFIG="+r.many(subscriptions, url),
		"GOMEMLIMIT=230MiB", "MEMORY_BUDGET=80MiB") // what the programs choose in a container of 256 MiB
	if err != nil {
		return err
	}
	began := time.Now()
	if err := retry.Pause(ctx, 15*time.Second); err != nil {
		return err
	}
	_, posts := sink.count()
	took := time.Since(began).Seconds()
	peak := p.peak()
	if err := p.kill(); err != nil {
		return err
	}
	what := fmt.Sprintf("%d partitions, %d subscriptions, %s sink: peak memory", partitions, subscriptions, state)
	note(what, peak)
	if !dead {
		note("  delivered", rate(posts, took))
	}
	return nil
}

// many writes a configuration with n subscriptions to url.
func (r *rig) many(n int, url string) string {
	var c bytes.Buffer
	c.WriteString("topic: task-events\nsubscriptions:\n")
	for i := range n {
		fmt.Fprintf(&c, "  - {name: s%d, group: g%d, sink: %q, exhausted: block}\n", i, i, url)
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
func fillCompressed(ctx context.Context, addr string, tasks []string, bodies [][]byte) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("task-events"), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerLinger(50*time.Millisecond), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer cl.Close()
	failed := make(chan error, 1)
	for i := range backlog {
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

// peak is the most memory the running program has had at once, as Linux counts
// it. The figure in its exit status would be wrong: it begins with this
// program's own, from which it was forked.
func (p *proc) peak() string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return "not measured: no /proc"
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			return fmt.Sprintf("%d MiB", n>>10)
		}
	}
	return "not measured"
}
