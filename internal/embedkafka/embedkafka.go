// Package embedkafka is a Kafka broker inside the process, for development and
// tests only: one node, no replication. It is franz-go's kfake. With a data
// folder its topics and group offsets survive a restart, also one by SIGKILL.
package embedkafka

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Config is where the broker listens and lives.
type Config struct {
	Addr    string                                              // host:port; port 0 takes a free one
	DataDir string                                              // "" keeps everything in memory
	Topics  map[string]int                                      // topic to partitions, made when missing
	Listen  func(network, address string) (net.Listener, error) // nil for the network
	Options []kfake.Opt                                         // tests: faults, SASL, TLS
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    *os.File // nil in memory
}

// Start returns when the broker answers. A port that is taken and a data folder
// that another broker holds are errors that say so.
func Start(cfg Config) (*Broker, error) {
	b := &Broker{}
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.ListenFn(listener(cfg))}
	for topic, partitions := range cfg.Topics {
		opts = append(opts, kfake.SeedTopics(int32(partitions), topic))
	}
	if cfg.DataDir != "" {
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return nil, fmt.Errorf("make the broker's data folder: %w", err)
		}
		lock, err := lockFile(filepath.Join(cfg.DataDir, "lock"))
		if err != nil {
			return nil, fmt.Errorf("the broker's data in %s is in use by another process: %w", cfg.DataDir, err)
		}
		b.lock = lock
		opts = append(opts, kfake.DataDir(filepath.Join(cfg.DataDir, "log")))
	}
	cluster, err := kfake.NewCluster(append(opts, cfg.Options...)...)
	if err != nil {
		b.unlock()
		return nil, fmt.Errorf("start the embedded broker on %s: %w", cfg.Addr, err)
	}
	b.cluster, b.addr = cluster, cluster.ListenAddrs()[0]
	return b, nil
}

// listener replaces the address that kfake would choose by the one of cfg.
func listener(cfg Config) func(network, address string) (net.Listener, error) {
	listen := cfg.Listen
	if listen == nil {
		listen = net.Listen
	}
	return func(network, address string) (net.Listener, error) {
		if cfg.Addr != "" {
			address = cfg.Addr
		}
		return listen(network, address)
	}
}

// Addr is host:port with the real port.
func (b *Broker) Addr() string { return b.addr }

// Cluster gives tests its fault injection.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker; with a data folder everything is on disk when it returns.
func (b *Broker) Close() error {
	b.cluster.Close()
	return b.unlock()
}

func (b *Broker) unlock() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close() // closing gives up the lock
}
