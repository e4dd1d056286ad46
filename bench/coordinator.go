package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

const window = 8 * time.Second // of each measurement

// benchCommits shows what commits cost a real Apache Kafka, and what a SIGKILL
// costs for want of a commit: idle is one event a second in each partition, busy
// a backlog at a sink that takes 5 ms, at a rate that leaves the machine time to spare.
func benchCommits(ctx context.Context, r *rig, t *table) error {
	return r.onKafka(ctx, t, func(k *cluster) error {
		for _, partitions := range []int{1, 12, 48, 200} {
			if err := k.commits(ctx, partitions); err != nil {
				return err
			}
		}
		return nil
	})
}

// benchFetch shows what it costs that each subscription of a topic fetches for
// itself. No event is wanted by any of them, so that nothing but fetches is measured.
func benchFetch(ctx context.Context, r *rig, t *table) error {
	return r.onKafka(ctx, t, func(k *cluster) error {
		for _, partitions := range []int{1, 12} {
			for _, n := range []int{1, 50} {
				for _, rate := range []int{0, 200, 1000} {
					if err := k.fetches(ctx, partitions, n, rate); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// cluster is the Apache Kafka of this run, for sections that look into it.
type cluster struct {
	*rig
	table *table
	dir   string
}

func (r *rig) onKafka(ctx context.Context, t *table, run func(*cluster) error) error {
	if err := r.startReal(ctx); err != nil {
		return err
	}
	return run(&cluster{rig: r, table: t, dir: r.realDir})
}

// topic creates an empty topic.
func (k *cluster) topic(ctx context.Context, partitions int) (string, error) {
	cfg := kafka.Config{Brokers: k.real.Brokers, ClientID: "bench"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		return "", err
	}
	defer transport.Close()
	k.topics++
	topic := fmt.Sprintf("t%d-%d", partitions, k.topics)
	return topic, kafka.EnsureTopic(ctx, kafka.NewClient(cfg, transport), topic, partitions, true)
}

// subscribe starts a bridge with n subscriptions of topic.
func (k *cluster) subscribe(ctx context.Context, topic string, n int, sink, types string) (*proc, error) {
	var c bytes.Buffer
	fmt.Fprintf(&c, "topic: %s\nsubscriptions:\n", topic)
	for i := range n {
		fmt.Fprintf(&c, "  - {name: s%d, group: %s-%d, sink: %q, types: [%s], rate: 3000, exhausted: block}\n", i, topic, i, sink, types)
	}
	path := filepath.Join(k.sub("bridge"), "bridge.yaml")
	if err := os.WriteFile(path, c.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return k.service(ctx, "bridge", "KAFKA_BOOTSTRAP_SERVERS="+k.real.Brokers[0], "BRIDGE_CONFIG="+path, "KAFKA_GROUP_INSTANCE_ID=bench-0")
}

func (k *cluster) commits(ctx context.Context, partitions int) error {
	topic, err := k.topic(ctx, partitions)
	if err != nil {
		return err
	}
	sink := newTarget(5*time.Millisecond, 200_000)
	defer sink.close()
	p, err := k.subscribe(ctx, topic, 1, sink.URL, "task.created")
	if err != nil {
		return err
	}
	idle, busy := fmt.Sprintf("%d partitions, idle", partitions), fmt.Sprintf("%d partitions, busy", partitions)
	err = k.during(p, idle, func() error { return k.trickle(ctx, topic, partitions) })
	if err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	if err := k.pour(ctx, topic, 60_000); err != nil {
		return err
	}
	if p, err = k.subscribe(ctx, topic, 1, sink.URL, "task.created"); err != nil {
		return err
	}
	_, before := sink.count()
	err = k.during(p, busy, func() error { return retry.Pause(ctx, window) })
	if err != nil {
		return err
	}
	_, posts := sink.count()
	k.table.figure(busy+": posts", perSecond, float64(posts-before)/window.Seconds(), none)
	if err := p.kill(); err != nil {
		return err
	}
	return k.again(ctx, busy, topic, sink)
}

// again restarts a killed bridge and counts what it posts a second time.
func (k *cluster) again(ctx context.Context, what, topic string, sink *target) error {
	events, posts := sink.count()
	twice := posts - events
	p, err := k.subscribe(ctx, topic, 1, sink.URL, "task.created")
	if err != nil {
		return err
	}
	if err := retry.Pause(ctx, 3*time.Second); err != nil {
		return err
	}
	events, posts = sink.count()
	k.table.figure(what+": posted again after SIGKILL", count, float64(posts-events-twice), none)
	return p.kill()
}

func (k *cluster) fetches(ctx context.Context, partitions, n, perSecond int) error {
	topic, err := k.topic(ctx, partitions)
	if err != nil {
		return err
	}
	p, err := k.subscribe(ctx, topic, n, deadSink(), "other.type")
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d partitions, %d subscriptions, %d events/s", partitions, n, perSecond)
	if err := k.during(p, what, func() error { return k.trickle(ctx, topic, perSecond) }); err != nil {
		return err
	}
	return p.kill()
}

// during reports what the bridge and the broker used while run ran.
func (k *cluster) during(p *proc, what string, run func() error) error {
	before, err := k.measure(p)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := run(); err != nil {
		return err
	}
	lasted := time.Since(began).Seconds()
	after, err := k.measure(p)
	if err != nil {
		return err
	}
	t := k.table
	t.figure(what+": commits", perSecond, float64(after.batches-before.batches)/lasted, none)
	t.figure(what+": written to __consumer_offsets a second", bytes_, float64(after.bytes-before.bytes)/lasted, none)
	t.figure(what+": CPU of the broker", percent, 100*(after.broker-before.broker)/lasted, none)
	t.figure(what+": CPU of the bridge", percent, 100*(after.bridge-before.bridge)/lasted, none)
	t.figure(what+": read by the bridge a second", bytes_, float64(after.read-before.read)/lasted, none)
	return nil
}

// trickle produces events at an even rate for a window.
func (k *cluster) trickle(ctx context.Context, topic string, perSecond int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*window)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.real.Brokers...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	end := time.Now().Add(window)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	tasks, all := bodies(perSecond*int(window/time.Second)+perSecond, 1000)
	owed := 0
	for time.Now().Before(end) {
		<-tick.C
		for owed += perSecond; owed >= 10 && len(all) > 0; owed -= 10 {
			cl.Produce(ctx, record(tasks[0], all[0]), nil)
			tasks, all = tasks[1:], all[1:]
		}
	}
	return cl.Flush(ctx)
}

// pour produces n events at once.
func (k *cluster) pour(ctx context.Context, topic string, n int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.real.Brokers...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	tasks, all := bodies(n, 20_000)
	records := make([]*kgo.Record, n)
	for i := range all {
		records[i] = record(tasks[i], all[i])
	}
	return cl.ProduceSync(ctx, records...).FirstErr()
}

type usage struct {
	batches, bytes int64 // in the log of offsets; a commit is one batch
	broker, bridge float64
	read           int64
}

func (k *cluster) measure(p *proc) (u usage, err error) {
	broker, err := k.pid()
	if err != nil {
		return u, err
	}
	if u.broker, err = cpuOf(broker); err != nil {
		return u, err
	}
	if u.bridge, err = cpuOf(p.Pid()); err != nil {
		return u, err
	}
	if u.read, err = readBy(p.Pid()); err != nil {
		return u, err
	}
	u.batches, u.bytes, err = k.offsetsLog()
	return u, err
}

// offsetsLog counts the record batches and bytes of __consumer_offsets.
func (k *cluster) offsetsLog() (batches, size int64, err error) {
	logs, err := filepath.Glob(filepath.Join(k.dir, "data", "__consumer_offsets-*", "*.log"))
	if err != nil {
		return 0, 0, err
	}
	for _, path := range logs {
		log, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		// A batch begins with its offset and the length of what follows; the file ends
		// in zeros or within a batch that is just being written.
		for len(log) > 12 {
			n := 12 + int64(binary.BigEndian.Uint32(log[8:]))
			if n == 12 || n > int64(len(log)) {
				break
			}
			batches, size, log = batches+1, size+n, log[n:]
		}
	}
	return batches, size, nil
}

// pid finds the broker by the name of its configuration.
func (k *cluster) pid() (int, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && bytes.Contains(line, []byte("kafka.Kafka\x00"+k.dir)) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, errors.New("the broker's process is not found: this section needs Linux")
}
