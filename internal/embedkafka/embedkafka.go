// Package embedkafka is a Kafka broker inside the process, for development and
// tests only: one node, no replication, no fsync. It is franz-go's kfake. With
// a data folder its topics, producers and group offsets survive a restart, even
// after SIGKILL.
package embedkafka

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/taskwire/taskwire/internal/filelock"
)

// Config says where the broker listens and keeps its data.
type Config struct {
	Addr    string                                              // host:port as clients reach it; port 0 or "" takes a free port of 127.0.0.1
	DataDir string                                              // "" keeps everything in memory
	Topics  map[string]int                                      // topic to number of partitions; missing ones are created
	Compact []string                                            // those of Topics that keep the last record of each key
	Listen  func(network, address string) (net.Listener, error) // nil for the network
	Options []kfake.Opt                                         // tests: more brokers, SASL, TLS, limits
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    *os.File // nil in memory
	faults  *faults
	close   func() error // runs once
}

// Start returns when the broker answers. A taken port and a data folder that
// another broker uses are errors that name it.
func Start(cfg Config) (*Broker, error) {
	b := &Broker{faults: &faults{}}
	b.close = sync.OnceValue(b.stop)
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.ListenFn(listener(cfg)), kfake.WithLogger(b.faults)}
	if cfg.DataDir != "" {
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return nil, fmt.Errorf("create the broker's data folder: %w", err)
		}
		var err error
		if b.lock, err = filelock.Take(filepath.Join(cfg.DataDir, "lock")); err != nil {
			return nil, lockError(cfg.DataDir, err)
		}
		opts = append(opts, kfake.DataDir(filepath.Join(cfg.DataDir, "log")))
	}
	var err error
	if b.cluster, err = kfake.NewCluster(append(opts, cfg.Options...)...); err != nil {
		return nil, errors.Join(startError(cfg, err), b.unlock())
	}
	b.addr = b.cluster.ListenAddrs()[0]
	if err := b.create(cfg); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// create creates the missing topics. The library's own seeding does nothing once
// the data folder exists.
func (b *Broker) create(cfg Config) error {
	for _, topic := range slices.Sorted(maps.Keys(cfg.Topics)) {
		if b.cluster.TopicInfo(topic) != nil {
			continue
		}
		var settings map[string]string
		if slices.Contains(cfg.Compact, topic) {
			settings = map[string]string{"cleanup.policy": "compact"}
		}
		if err := b.cluster.CreateTopic(topic, int32(cfg.Topics[topic]), settings); err != nil {
			return fmt.Errorf("create topic %s on the embedded broker: %w", topic, err)
		}
	}
	return nil
}

func lockError(dir string, err error) error {
	if errors.Is(err, filelock.ErrHeld) {
		return fmt.Errorf("the broker's data in %s is in use by another process; stop it or choose another folder with -data", dir)
	}
	return fmt.Errorf("lock the broker's data in %s: %w", dir, err)
}

func startError(cfg Config, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		// dev is the only program with this broker, so the advice is a flag of dev.
		return fmt.Errorf("port %s of the embedded broker is taken by another program; stop it or choose other ports with -port-base", cfg.Addr)
	}
	return fmt.Errorf("start the embedded broker on %s: %w", cfg.Addr, err)
}

// listener replaces the address that kfake would choose with cfg.Addr.
func listener(cfg Config) func(network, address string) (net.Listener, error) {
	listen := cfg.Listen
	if listen == nil {
		listen = net.Listen
	}
	first := true
	return func(network, address string) (net.Listener, error) {
		if cfg.Addr != "" && first { // tests with several brokers name the first
			address = cfg.Addr
		}
		first = false
		return listen(network, address)
	}
}

// Addr is host:port with the real port.
func (b *Broker) Addr() string { return b.addr }

// Cluster gives tests its fault injection.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker; with a data folder everything is on disk when it
// returns nil. A second Close does nothing and returns the same.
func (b *Broker) Close() error { return b.close() }

func (b *Broker) stop() error {
	b.cluster.Close()
	return errors.Join(b.faults.err(), b.unlock())
}

func (b *Broker) unlock() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close() // closing releases the lock
}

// faults keeps the errors that the library only logs, such as a full disk.
type faults struct {
	mu    sync.Mutex
	lines []error
}

// keptFaults bounds the list on a full disk.
const keptFaults = 10

// Logf is called from the broker's goroutines.
func (f *faults) Logf(level kfake.LogLevel, format string, args ...any) {
	if level != kfake.LogLevelError {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) < keptFaults {
		f.lines = append(f.lines, fmt.Errorf("embedded broker: "+format, args...))
	}
}

func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.lines...)
}
