package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafka"
)

// nodes is the least number that loses one and goes on: three replicas, of
// which two must have a record before it is acknowledged, and three controllers.
const nodes = 3

// Quorum is a real Kafka of three nodes, each broker and controller in one. A
// topic has three replicas and min.insync.replicas=2. A node that is killed is
// replaced as leader and as coordinator after two to three seconds, when its
// session has expired; one that is stopped, at once.
//
// Its methods must not be called concurrently. All processes end with this one.
type Quorum struct {
	Nodes   []*Real  // the node with id n is Nodes[n-1]
	Brokers []string // in the same order
}

// quorum is what the nodes of a cluster share; nil for a node on its own.
type quorum struct {
	id     string   // of the cluster
	voters []string // id@host:port of each controller
}

func (q *quorum) property(controller int) string {
	if q == nil {
		return "controller.quorum.bootstrap.servers=" + loopback(controller)
	}
	return "controller.quorum.voters=" + strings.Join(q.voters, ",")
}

// heap keeps three nodes and a test run within the memory of a laptop.
func (q *quorum) heap() string {
	if q == nil {
		return "512m"
	}
	return "256m"
}

// OpenQuorum is OpenReal for three nodes. Each has a folder in opts.Dir; Port is
// not used, and the addresses that Listeners advertises are asked of advertise.
func OpenQuorum(ctx context.Context, opts Options, advertise func(node int, listener string) string) (*Quorum, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, err
	}
	libs, err := Fetch(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	for tries := 3; ; tries-- {
		q := newQuorum(java, libs, opts, advertise)
		err := q.each(func(r *Real) error { return r.configure(ctx) }, q.Nodes...)
		if err == nil {
			err = q.Start(ctx, q.Nodes...)
		}
		if err == nil {
			return q, nil
		}
		err = errors.Join(err, q.Kill())
		// Another process may take a port after it was chosen.
		if tries == 1 || !strings.Contains(err.Error(), "Address already in use") {
			return nil, err
		}
		for _, r := range q.Nodes {
			if err := os.RemoveAll(r.opts.Dir); err != nil { // it is still empty
				return nil, fmt.Errorf("choose other ports: %w", err)
			}
		}
	}
}

func newQuorum(java, libs string, opts Options, advertise func(node int, listener string) string) *Quorum {
	q, shared := &Quorum{}, &quorum{id: newID()}
	for id := 1; id <= nodes; id++ {
		own := opts
		own.Dir = filepath.Join(opts.Dir, strconv.Itoa(id))
		own.Properties = append([]string{
			"default.replication.factor=3", "min.insync.replicas=2", "offsets.topic.replication.factor=3",
			// How soon the others notice that a controller or a follower is gone.
			"controller.quorum.election.timeout.ms=500", "controller.quorum.fetch.timeout.ms=1000", "controller.quorum.request.timeout.ms=1000",
			"replica.lag.time.max.ms=3000",
		}, opts.Properties...)
		own.Listeners = map[string]string{}
		r := &Real{Java: java, Libs: libs, opts: own, quorum: shared, node: id, ports: [2]int{freeport.Port(), freeport.Port()}, Listeners: map[string]string{}}
		for name := range opts.Listeners {
			own.Listeners[name] = advertise(id, name)
			r.Listeners[name] = freeport.Addr()
		}
		r.Brokers = []string{loopback(r.ports[0])}
		shared.voters = append(shared.voters, fmt.Sprintf("%d@%s", id, loopback(r.ports[1])))
		q.Nodes, q.Brokers = append(q.Nodes, r), append(q.Brokers, r.Brokers[0])
	}
	return q
}

// StartQuorum starts three nodes for this test alone, whatever KAFKA_REAL is.
func StartQuorum(t testing.TB, properties ...string) *Quorum {
	t.Helper()
	dir, err := os.MkdirTemp("", "kafkatest-*") // see StartReal
	if err != nil {
		t.Fatal(err)
	}
	q, err := OpenQuorum(t.Context(), Options{Dir: dir, Scratch: true, Properties: properties, Progress: os.Stderr}, nil)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, r := range q.Nodes {
				t.Logf("last lines of the log of node %d:\n%s", r.node, r.lastLines())
			}
		}
		if err := errors.Join(q.Kill(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return q
}

// Cluster returns all of it as a cluster for clients and topics.
func (q *Quorum) Cluster() *Cluster { return &Cluster{Brokers: q.Brokers} }

// Start starts the nodes that are down and returns when all of them accept
// requests. Two of three must run, or be among them.
func (q *Quorum) Start(ctx context.Context, down ...*Real) error {
	return q.each(func(r *Real) error { return r.start(ctx) }, down...)
}

// Kill ends every node that runs.
func (q *Quorum) Kill() error { return q.each((*Real).Kill, q.Nodes...) }

func (*Quorum) each(do func(*Real) error, of ...*Real) error {
	var all errgroup.Group
	for _, r := range of {
		all.Go(func() error { return do(r) })
	}
	return all.Wait()
}

// Topic is what a node knows of a topic.
type Topic struct {
	Leaders  []int // node by partition; -1 for none
	Complete bool  // every replica of every partition is in sync
}

// Topic asks this node, whose knowledge may be a moment old.
func (r *Real) Topic(ctx context.Context, name string) (t Topic, err error) {
	err = r.ask(ctx, func(ctx context.Context, client *kafkago.Client) error {
		meta, err := client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{name}})
		if err != nil {
			return err
		}
		t = Topic{Leaders: make([]int, len(meta.Topics[0].Partitions)), Complete: true}
		for _, p := range meta.Topics[0].Partitions {
			t.Leaders[p.ID] = p.Leader.ID
			if p.Leader.Host == "" {
				t.Leaders[p.ID] = -1
			}
			t.Complete = t.Complete && len(p.Isr) == len(p.Replicas)
		}
		return meta.Topics[0].Error
	})
	return t, err
}

// Coordinator asks this node which one coordinates a group.
func (r *Real) Coordinator(ctx context.Context, group string) (node int, err error) {
	err = r.ask(ctx, func(ctx context.Context, client *kafkago.Client) error {
		resp, err := client.FindCoordinator(ctx, &kafkago.FindCoordinatorRequest{Addr: client.Addr, Key: group, KeyType: kafkago.CoordinatorKeyTypeConsumer})
		if err != nil {
			return err
		}
		node = resp.Coordinator.NodeID
		return resp.Error
	})
	return node, err
}

// ask uses connections of its own: a pool answers from its memory.
func (r *Real) ask(ctx context.Context, question func(context.Context, *kafkago.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cfg := kafka.Config{Brokers: r.Brokers, ClientID: "kafkatest"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		return err
	}
	defer transport.Close()
	return question(ctx, kafka.NewClient(cfg, transport))
}

// Committed asks this node for the offsets that a group has committed for the
// first partitions of a topic, and adds them up.
func (r *Real) Committed(ctx context.Context, group, topic string, partitions int) (sum int64, err error) {
	all := make([]int, partitions)
	for i := range all {
		all[i] = i
	}
	err = r.ask(ctx, func(ctx context.Context, client *kafkago.Client) error {
		resp, err := client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: all}})
		if err != nil {
			return err
		}
		for _, p := range resp.Topics[topic] {
			sum += max(0, p.CommittedOffset)
			err = errors.Join(err, p.Error)
		}
		return errors.Join(err, resp.Error)
	})
	return sum, err
}
