// Package kafka is what the services share of Kafka: settings, connections, an
// idempotent producer, and topics. It stands on the protocol half of
// segmentio/kafka-go, its Transport and Client; the Reader and the Writer of
// that library are not used.
//
// What every user of a Client has to know:
//
//   - A request on the wire ends at its context's deadline only, not when the
//     context is cancelled. Always pass a deadline.
//   - After a broker restart each pooled connection fails once. Expect it, call
//     Forget, try again.
//   - A change of leader is noticed by the age of the metadata, seconds later,
//     unless Forget is called on the first error.
package kafka

import (
	"context"
	"fmt"
	"net"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

const (
	dialTimeout = 5 * time.Second
	// metadataTTL bounds the age of the metadata, and is also the library's
	// deadline for fetching them: a small value never succeeds on a slow broker.
	metadataTTL = 5 * time.Second
	// requestTimeout bounds requests whose context has no nearer deadline. It is
	// longer than any JoinGroup waits.
	requestTimeout = 60 * time.Second
)

// NewTransport makes the connections of one process; it dials when it is first
// used. Close it with CloseIdleConnections after its last user has ended.
// It fails when the secrets of cfg cannot be read.
func NewTransport(cfg Config) (*kafkago.Transport, error) {
	dial, err := cfg.dialer()
	if err != nil {
		return nil, err
	}
	t := &kafkago.Transport{
		Dial:        dial,
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

// NewClient sends requests to the brokers of cfg over transport.
func NewClient(cfg Config, transport *kafkago.Transport) *kafkago.Client {
	return &kafkago.Client{Addr: kafkago.TCP(cfg.Brokers...), Timeout: requestTimeout, Transport: transport}
}

// Forget drops the pooled connections of a client and what it knows of leaders,
// so that the next request meets living connections and the present leaders. Requests
// on the wire are not disturbed.
func Forget(client *kafkago.Client) {
	if t, ok := client.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Reachable reports whether a broker answers now. It asks over the wire, twice
// if need be, since a pooled connection may have died unnoticed.
func Reachable(ctx context.Context, client *kafkago.Client) error {
	err := ping(ctx, client)
	if err != nil && ctx.Err() == nil {
		Forget(client)
		err = ping(ctx, client)
	}
	if err != nil {
		return fmt.Errorf("reach kafka at %s: %w", client.Addr, err)
	}
	return nil
}

func ping(ctx context.Context, client *kafkago.Client) error {
	resp, err := client.ApiVersions(ctx, &kafkago.ApiVersionsRequest{})
	if err != nil {
		return err
	}
	return resp.Error
}

// DialFunc opens a connection to a broker.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)
