package kafka_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/taskwire/taskwire/internal/kafka"
)

// TestUnreachableBroker: an operator reads which address does not answer and
// which setting names it, and nothing of the libraries underneath.
func TestUnreachableBroker(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"refused": {refused, "no connection to broker kafka.example:9092: connection refused (check KAFKA_BOOTSTRAP_SERVERS)"},
		"unknown host": {&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "kafka.example"}},
			"no connection to broker kafka.example:9092: no such host (check KAFKA_BOOTSTRAP_SERVERS)"},
		"silent": {&net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded},
			"no connection to broker kafka.example:9092: timed out (check KAFKA_BOOTSTRAP_SERVERS)"},
	} {
		t.Run(name, func(t *testing.T) {
			client := connect(t, kafka.Config{Brokers: []string{"kafka.example:9092"},
				Dial: func(context.Context, string, string) (net.Conn, error) { return nil, c.err }})
			_, err := kafka.Partitions(within(t, 20*time.Second), client, "task-events")
			if want := "look up topic task-events: " + c.want; err == nil || err.Error() != want {
				t.Errorf("Partitions = %v\nwant %s", err, want)
			}
			for what, err := range map[string]error{
				"Reachable":   kafka.Reachable(within(t, 20*time.Second), client),
				"EnsureTopic": kafka.EnsureTopic(within(t, 20*time.Second), client, "task-events", 1, true),
			} {
				if !errors.Is(err, c.err) || !strings.HasSuffix(err.Error(), c.want) || strings.Contains(err.Error(), "(*Client)") {
					t.Errorf("%s = %v\nwant it to end in %s", what, err, c.want)
				}
			}
		})
	}
}

// TestUnreachableLeader: the bootstrap server answers, but the address that it
// advertises for the leader does not. That is no mistake in our own settings.
func TestUnreachableLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, kfake.NumBrokers(2), kfake.Ports(9092, 9093))
		if err := w.cluster.MoveTopicPartition(topic, 0, 1); err != nil {
			t.Fatal(err)
		}
		client := connect(t, kafka.Config{Brokers: []string{w.broker.Addr()}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasSuffix(address, ":9093") {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			return w.net.DialContext(ctx, network, address)
		}})
		err := kafka.NewProducer(client, slog.New(slog.DiscardHandler)).Produce(within(t, time.Second), topic, stream{}.take(1))
		var unreachable *kafka.UnreachableError
		if !errors.As(err, &unreachable) || unreachable.Bootstrap || !strings.HasSuffix(unreachable.Address, ":9093") {
			t.Fatalf("Produce = %v, want an UnreachableError for the advertised address", err)
		}
		if !strings.Contains(err.Error(), "advertised.listeners") || strings.Contains(err.Error(), "(*Client)") {
			t.Errorf("message: %v", err)
		}
	})
}
