package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
)

// UnreachableError reports a broker that no connection can be made to, with
// what an operator can check.
type UnreachableError struct {
	Address   string
	Bootstrap bool // Address is a setting; otherwise the brokers advertise it
	Err       error
}

func (e *UnreachableError) Error() string {
	check := "check KAFKA_BOOTSTRAP_SERVERS"
	if !e.Bootstrap {
		check = "the brokers advertise this address; check their advertised.listeners"
	}
	return fmt.Sprintf("no connection to broker %s: %s (%s)", e.Address, dialReason(e.Err), check)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// dialReason drops the address and the system call that the net package adds.
func dialReason(err error) string {
	var dns *net.DNSError
	var call *os.SyscallError
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &call):
		return call.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

// explained makes the errors of dial say which broker cannot be reached.
func explained(dial DialFunc, bootstrap []string) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, &UnreachableError{Address: address, Bootstrap: slices.Contains(bootstrap, address), Err: err}
		}
		return conn, nil
	}
}

// Plain drops the name of the library's method ("kafka.(*Client).Fetch: ...")
// from one of its errors: operators have no use for it.
func Plain(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "kafka.(*Client).") {
		return inner
	}
	return err
}

// Reachable reports whether a broker answers now. It asks over the network, twice
// if necessary, since a pooled connection may have died unnoticed.
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
		return Plain(err)
	}
	return resp.Error
}
