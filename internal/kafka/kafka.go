// Package kafka holds what the services share of Kafka: settings, connections,
// an idempotent producer, and topics. It builds on the protocol half of
// segmentio/kafka-go, its Transport and Client; the library's Reader and Writer
// are not used.
//
// Every user of a Client needs to know:
//
//   - A request in flight ends only at its context's deadline, not when the
//     context is cancelled. Always pass a deadline.
//   - After a broker restart each pooled connection fails once. Expect it, call
//     Forget, retry.
//   - A change of leader is noticed when the metadata expires, seconds later,
//     unless Forget is called on the first error.
//   - A broker that hangs is noticed after one to three seconds, whatever the
//     deadline of a request; see pulse.
package kafka

import (
	"context"
	"net"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

const (
	dialTimeout = 5 * time.Second
	// metadataTTL bounds the age of the metadata, and is also the library's
	// deadline for fetching it: a small value never succeeds on a slow broker.
	metadataTTL = 5 * time.Second
	// requestTimeout bounds requests whose context has no earlier deadline. It is
	// longer than any JoinGroup waits.
	requestTimeout = 60 * time.Second
)

// Transport is the connection pool of one process.
type Transport struct {
	*kafkago.Transport
	open *connections
}

// NewTransport returns a pool that dials when it is first used. Close it after its
// last user has ended. It fails when the secrets of cfg cannot be read.
func NewTransport(cfg Config) (*Transport, error) {
	dial, err := cfg.dialer()
	if err != nil {
		return nil, err
	}
	t := &Transport{}
	t.open = newConnections(cfg, dial, func() { t.CloseIdleConnections() })
	t.Transport = &kafkago.Transport{
		Dial:        t.open.connect,
		DialTimeout: dialTimeout,
		MetadataTTL: metadataTTL,
		ClientID:    cfg.ClientID,
	}
	if cfg.SASL.Mechanism == "" {
		return t, nil
	}
	login, err := newLogin(cfg.SASL)
	if err != nil {
		return nil, err
	}
	t.SASL = login
	return t, nil
}

// Close closes every connection. One whose request is on the wire would otherwise
// stay until the broker answers, although nobody waits for it any more.
func (t *Transport) Close() {
	t.CloseIdleConnections()
	t.open.close()
}

// NewClient returns a client that sends requests to the brokers of cfg over transport.
func NewClient(cfg Config, transport *Transport) *kafkago.Client {
	return &kafkago.Client{Addr: kafkago.TCP(cfg.Brokers...), Timeout: requestTimeout, Transport: transport}
}

// Forget drops the pooled connections of a client and its knowledge of leaders,
// so that the next request uses new connections and the current leaders. Requests
// in flight are not disturbed.
func Forget(client *kafkago.Client) {
	if t, ok := client.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// DialFunc opens a connection to a broker.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)
