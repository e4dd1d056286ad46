package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// startBroker starts Kafka behind proxies. A real one has a listener for each
// client, whose advertised address is that client's proxy; the embedded one
// advertises a single address, so all clients share a proxy.
func (y *system) startBroker(ctx context.Context) error {
	switch {
	case y.Brokers == 3:
		return y.startQuorum(ctx)
	case y.Kafka == "real":
		return y.startReal(ctx)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addr := freeport.Addr()
	front, err := y.proxy("services->kafka", "services->kafka", addr)
	if err != nil {
		return err
	}
	p := &program{name: "broker", path: self, args: []string{"broker"}, dir: y.Dir, env: func(int) ([]string, error) {
		return []string{"CHAOS_BROKER=" + addr, "CHAOS_ADVERTISED=" + front.addr, "CHAOS_DATA=" + y.path("kafka"), fmt.Sprintf("CHAOS_PARTITIONS=%d", y.partitions())}, nil
	}}
	for _, name := range y.kafkaClients() {
		y.bootstrap[name] = front.addr
	}
	y.targets, y.brokers = append(y.targets, p), []string{addr}
	return p.Up()
}

// kafkaClients are all that may run.
func (y *system) kafkaClients() []string {
	all := []string{"taskapi", "taskapi-2"}
	if y.Scale {
		all = append(all, spareName("taskapi"))
	}
	for i := range y.bridgeCount() + 1 {
		all = append(all, fmt.Sprintf("bridge-%d", i+1))
	}
	return all
}

func (y *system) startReal(ctx context.Context) error {
	opts := kafkatest.Options{Dir: y.path("kafka"), Progress: y.out, Listeners: map[string]string{}}
	proxies := map[string]*proxy{}
	for _, name := range y.kafkaClients() {
		role, _, _ := strings.Cut(name, "-")
		p, err := y.proxy(name+"->kafka", role+"->kafka", "")
		if err != nil {
			return err
		}
		listener := strings.ToUpper(strings.ReplaceAll(name, "-", ""))
		opts.Listeners[listener], y.bootstrap[name], proxies[listener] = p.addr, p.addr, p
	}
	real, err := kafkatest.OpenReal(ctx, opts)
	if err != nil {
		return err
	}
	for listener, p := range proxies {
		p.connectTo(real.Listeners[listener])
	}
	y.targets, y.brokers = append(y.targets, &kafkaBroker{Real: real}), real.Brokers
	return nil
}

// kafkaBroker is a real Apache Kafka as a target.
type kafkaBroker struct {
	*kafkatest.Real
	mu   sync.Mutex
	down bool
}

func (b *kafkaBroker) Name() string { return "broker" }

func (b *kafkaBroker) Signal(sig syscall.Signal) error { return b.Real.Signal(sig) }

func (b *kafkaBroker) Down(sig syscall.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	_ = b.Real.Signal(syscall.SIGCONT)
	if sig == syscall.SIGKILL {
		return b.Real.Kill()
	}
	return b.Real.Stop()
}

func (b *kafkaBroker) Up() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.down {
		return nil
	}
	b.down = false
	return b.Real.Restart()
}

// brokerCommand runs the embedded broker in a process of its own, so that it
// can be killed. Its settings are environment variables, as for the services.
func brokerCommand(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return &usageError{"broker is started by run only"}
	}
	n, err := strconv.Atoi(os.Getenv("CHAOS_PARTITIONS"))
	if err != nil {
		return fmt.Errorf("CHAOS_PARTITIONS: %w", err)
	}
	front, err := net.ResolveTCPAddr("tcp", os.Getenv("CHAOS_ADVERTISED"))
	if err != nil {
		return err
	}
	b, err := embedkafka.Start(embedkafka.Config{Addr: os.Getenv("CHAOS_BROKER"), DataDir: os.Getenv("CHAOS_DATA"),
		Topics: map[string]int{topic: n, deadLetters: 1}, Listen: func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			return advertised{l, front}, err
		}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return b.Close()
}

// advertised is a listener that reports another address, which the broker then
// advertises to its clients.
type advertised struct {
	net.Listener
	addr net.Addr
}

func (a advertised) Addr() net.Addr { return a.addr }
