package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/retry"
)

// quorum is a real Kafka of three brokers as a target: what happens to it happens
// to all of them. Faults of single brokers are kinds of their own; one at a time,
// so that a run of several brokers tests what they survive.
type quorum struct {
	*kafkatest.Quorum
	turn sync.Mutex // held from a fault of brokers until it is healed

	mu   sync.Mutex // guards down
	down map[*kafkatest.Real]bool
}

// quorumKinds are the faults that need several brokers.
var quorumKinds = []string{"coordinator", "hang", "leader", "majority", "rolling", "update"}

func (y *system) startQuorum(ctx context.Context) error {
	opts := kafkatest.Options{Dir: y.path("kafka"), Progress: y.out, Listeners: map[string]string{}}
	proxies := map[string]*proxy{} // by node and listener
	fronts := map[string][]string{}
	for _, name := range y.kafkaClients() {
		role, _, _ := strings.Cut(name, "-")
		listener := strings.ToUpper(strings.ReplaceAll(name, "-", ""))
		opts.Listeners[listener] = "" // advertised by node, below
		for node := 1; node <= 3; node++ {
			p, err := y.proxy(fmt.Sprintf("%s->kafka-%d", name, node), role+"->kafka", "")
			if err != nil {
				return err
			}
			proxies[fmt.Sprint(node, listener)] = p
			fronts[name] = append(fronts[name], p.addr)
		}
		y.bootstrap[name] = strings.Join(fronts[name], ",")
	}
	q, err := kafkatest.OpenQuorum(ctx, opts, func(node int, listener string) string { return proxies[fmt.Sprint(node, listener)].addr })
	if err != nil {
		return err
	}
	for i, node := range q.Nodes {
		for listener, addr := range node.Listeners {
			proxies[fmt.Sprint(i+1, listener)].connectTo(addr)
		}
	}
	y.quorum = &quorum{Quorum: q, down: map[*kafkatest.Real]bool{}}
	y.targets, y.brokers = append(y.targets, y.quorum), q.Brokers
	return nil
}

func (q *quorum) Name() string { return "brokers" }

func (q *quorum) Signal(sig syscall.Signal) error {
	var errs []error
	for _, node := range q.Nodes {
		errs = append(errs, node.Signal(sig))
	}
	return errors.Join(errs...)
}

func (q *quorum) Down(sig syscall.Signal) error { return q.end(sig, q.Nodes...) }

func (q *quorum) end(sig syscall.Signal, nodes ...*kafkatest.Real) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for _, node := range nodes {
		q.down[node] = true
		_ = node.Signal(syscall.SIGCONT)
		if sig == syscall.SIGKILL {
			errs = append(errs, node.Kill())
		} else {
			errs = append(errs, node.Stop())
		}
	}
	return errors.Join(errs...)
}

// Up starts what is down, together: one alone would wait for the others.
func (q *quorum) Up() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var nodes []*kafkatest.Real
	for node := range q.down {
		nodes = append(nodes, node)
	}
	if err := q.Start(context.Background(), nodes...); err != nil {
		for _, node := range nodes {
			err = errors.Join(err, node.Kill()) // it is started again with the next, or at the end
		}
		return err
	}
	clear(q.down)
	return nil
}

// complete waits until every replica is in sync again, at most half a minute.
func (q *quorum) complete(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for retry.Pause(ctx, 100*time.Millisecond) == nil {
		if !slices.ContainsFunc(q.Nodes, func(node *kafkatest.Real) bool {
			t, err := node.Topic(ctx, topic)
			return err != nil || !t.Complete || slices.Contains(t.Leaders, -1)
		}) {
			return
		}
	}
}

// onQuorum makes a kind of a fault of brokers: it has them for itself, and when
// it is healed all of them have caught up.
func onQuorum(inject func(*system) (fault, error)) func(*system, context.Context) (fault, error) {
	return func(y *system, ctx context.Context) (fault, error) {
		y.quorum.turn.Lock()
		f, err := inject(y)
		heal := f.heal
		f.heal = func() error {
			defer y.quorum.turn.Unlock()
			if heal == nil {
				return nil
			}
			err := heal()
			y.quorum.complete(ctx)
			return err
		}
		return f, err
	}
}

// away is how long a broker is down. Kafka replaces it after three seconds.
func (y *system) away() time.Duration {
	if y.Once {
		return y.between(3500, 4500)
	}
	return y.between(4000, 8000)
}

func injectLeader(y *system) (fault, error) {
	t, err := y.quorum.Nodes[y.rand.IntN(3)].Topic(context.Background(), topic)
	if err != nil || len(t.Leaders) == 0 {
		return fault{}, errors.Join(errors.New("no leader to kill"), err)
	}
	return y.killNode("leader", t.Leaders[y.rand.IntN(len(t.Leaders))])
}

func injectCoordinator(y *system) (fault, error) {
	id, err := y.quorum.Nodes[y.rand.IntN(3)].Coordinator(context.Background(), auditGroup)
	if err != nil {
		return fault{}, err
	}
	return y.killNode("coordinator", id)
}

func (y *system) killNode(role string, id int) (fault, error) {
	if id < 1 {
		return fault{}, fmt.Errorf("no %s to kill", role)
	}
	return fault{target: fmt.Sprintf("%s, broker %d", role, id), last: y.away(), heal: y.quorum.Up}, y.quorum.end(syscall.SIGKILL, y.quorum.Nodes[id-1])
}

func injectHang(y *system) (fault, error) {
	id := 1 + y.rand.IntN(3)
	node := y.quorum.Nodes[id-1]
	return fault{target: fmt.Sprintf("broker %d hangs", id), last: y.away(), heal: func() error { return node.Signal(syscall.SIGCONT) }}, node.Signal(syscall.SIGSTOP)
}

// injectMajority leaves one broker, which may neither elect nor acknowledge: for
// half a minute in a long run.
func injectMajority(y *system) (fault, error) {
	last := y.between(4000, 5000)
	if y.Duration >= 2*time.Minute && !y.Once {
		last = y.between(30_000, 31_000)
	}
	left := y.rand.IntN(3)
	gone := slices.Delete(slices.Clone(y.quorum.Nodes), left, left+1)
	return fault{target: fmt.Sprintf("all brokers but %d", left+1), last: last, heal: y.quorum.Up}, y.quorum.end(syscall.SIGKILL, gone...)
}

// injectRolling restarts one broker after the other, as an upgrade does.
func injectRolling(y *system) (fault, error) {
	return fault{target: "each broker in turn", heal: func() error {
		var errs []error
		for _, node := range y.quorum.Nodes {
			errs = append(errs, y.quorum.end(syscall.SIGTERM, node), y.quorum.Up())
			y.quorum.complete(context.Background())
		}
		return errors.Join(errs...)
	}}, nil
}

// injectUpdate restarts one bridge after the other, each when the one before is ready.
func injectUpdate(y *system, ctx context.Context) (fault, error) {
	return fault{target: "each bridge in turn", heal: func() error {
		var errs []error
		for _, b := range y.bridges[:y.bridgeCount()] {
			errs = append(errs, b.Down(syscall.SIGTERM), b.Up())
			wait, cancel := context.WithTimeout(ctx, 20*time.Second)
			for !y.ready(wait, b.name) && retry.Pause(wait, 100*time.Millisecond) == nil {
			}
			cancel()
		}
		return errors.Join(errs...)
	}}, nil
}
