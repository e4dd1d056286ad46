package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/retry"
)

// A broker has an empty topic for one measurement.
type broker struct {
	addr  string // several with commas
	topic string // also the name of the consumer group
	proc  *proc  // nil for an Apache Kafka, which all measurements share
}

func realKafka() bool { return os.Getenv("KAFKA_REAL") == "1" }

// broker makes a topic: on an embedded broker in a process of its own, or on the
// Apache Kafka of this run.
func (r *rig) broker(ctx context.Context, partitions int) (*broker, error) {
	r.topics++
	b := &broker{topic: fmt.Sprintf("events-%d", r.topics)}
	if realKafka() {
		if err := r.startReal(ctx); err != nil {
			return nil, err
		}
		b.addr = r.real.Brokers[0]
		return b, b.create(ctx, b.topic, partitions)
	}
	b.addr = freeport.Addr()
	var err error
	if b.proc, err = r.yardstick("broker", b.addr, r.sub("kafka"), b.topic, strconv.Itoa(partitions)); err != nil {
		return nil, err
	}
	return b, b.answers(ctx)
}

func (r *rig) startReal(ctx context.Context) (err error) {
	if r.real == nil {
		r.say("starting Apache Kafka")
		r.realDir = r.sub("kafka")
		r.real, err = kafkatest.OpenReal(ctx, kafkatest.Options{Dir: r.realDir, Progress: os.Stderr})
	}
	return err
}

// create makes one more topic.
func (b *broker) create(ctx context.Context, topic string, partitions int) error {
	cfg := kafka.Config{Brokers: strings.Split(b.addr, ","), ClientID: "bench"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		return err
	}
	defer transport.Close()
	return kafka.EnsureTopic(ctx, kafka.NewClient(cfg, transport), topic, partitions, true)
}

func (b *broker) answers(ctx context.Context) error {
	for {
		conn, err := net.DialTimeout("tcp", b.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-b.proc.Done():
			return errors.New("the broker ended at once")
		default:
		}
		if err := retry.Pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func (b *broker) close() error {
	if b.proc == nil {
		return nil
	}
	return b.proc.kill()
}

// settings are what a service needs to use the broker.
func (b *broker) settings() []string {
	return []string{"KAFKA_BOOTSTRAP_SERVERS=" + b.addr, "KAFKA_TOPIC=" + b.topic, "KAFKA_CREATE_TOPICS=true"}
}

func (b *broker) producer() (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.DefaultProduceTopic(b.topic), kgo.ProducerLinger(0))
}

func record(task string, body []byte) *kgo.Record {
	return &kgo.Record{Key: []byte(task), Value: body, Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte(event.KafkaContentType)}}}
}

// fill puts every body on the topic.
func (b *broker) fill(ctx context.Context, tasks []string, bodies [][]byte) error {
	cl, err := b.producer()
	if err != nil {
		return err
	}
	defer cl.Close()
	records := make([]*kgo.Record, len(bodies))
	for i := range bodies {
		records[i] = record(tasks[i], bodies[i])
	}
	return cl.ProduceSync(ctx, records...).FirstErr()
}

// spread puts one event on each of n partitions.
func (b *broker) spread(ctx context.Context, n int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.DefaultProduceTopic(b.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	tasks, all := bodies(n, n)
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = record(tasks[i], all[i])
		records[i].Partition = int32(i)
	}
	return cl.ProduceSync(ctx, records...).FirstErr()
}

// serveBroker is the embedded broker, until it is killed.
func serveBroker(addr, dir, topic, partitions string) error {
	n, err := strconv.Atoi(partitions)
	if err != nil {
		return err
	}
	if _, err := embedkafka.Start(embedkafka.Config{Addr: addr, DataDir: dir, Topics: map[string]int{topic: n}}); err != nil {
		return err
	}
	select {}
}
