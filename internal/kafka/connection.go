package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// connections are those that are open, and what is known of the brokers at
// their other ends.
type connections struct {
	dial      DialFunc
	clientID  string
	bootstrap []string
	forget    func()          // drops pooled connections and the knowledge of leaders
	ctx       context.Context //nolint:containedctx // of questions, which no caller waits for; ends with close
	cancel    context.CancelFunc
	asking    sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	closed bool
	open   map[*connection]struct{}
	pulses map[string]*pulse // by address
}

func newConnections(cfg Config, dial DialFunc, forget func()) *connections {
	c := &connections{dial: dial, clientID: cfg.ClientID, bootstrap: cfg.Brokers, forget: forget,
		open: map[*connection]struct{}{}, pulses: map[string]*pulse{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// connect is a DialFunc. It fails at once for a broker that is known to be silent.
func (c *connections) connect(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end, err := c.began(network, address, cancel)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx, network, address)
	end()
	switch cause := context.Cause(ctx); {
	case err != nil && errors.Is(cause, errSilent):
		return nil, cause
	case err != nil:
		return nil, err
	}
	tracked := &connection{Conn: conn, owner: c, network: network, address: address}
	tracked.timer = time.AfterFunc(time.Hour, tracked.overdue)
	tracked.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c.open[tracked] = struct{}{}
	return tracked, nil
}

// close closes all connections, and those that are still being dialed.
func (c *connections) close() {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Conn.Close()
	}
	clear(c.open)
	c.mu.Unlock()
	c.asking.Wait()
}

// connection leaves its owner when it is closed. While a read or a write waits,
// a timer runs; see pulse.
type connection struct {
	net.Conn
	owner            *connections
	network, address string
	cut              atomic.Bool // closed because the broker is silent

	mu      sync.Mutex // guards waiting, and the timer with it
	waiting bool
	timer   *time.Timer
}

func (c *connection) Read(b []byte) (int, error) {
	c.wait(true)
	n, err := c.Conn.Read(b)
	c.wait(false)
	return n, c.explain(err)
}

func (c *connection) Write(b []byte) (int, error) {
	c.wait(true)
	n, err := c.Conn.Write(b)
	c.wait(false)
	return n, c.explain(err)
}

func (c *connection) wait(begin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting = begin; begin {
		c.timer.Reset(silence)
	} else {
		c.timer.Stop()
	}
}

func (c *connection) overdue() {
	c.mu.Lock()
	waiting := c.waiting
	if waiting {
		c.timer.Reset(silence) // the broker may fall silent after the next question
	}
	c.mu.Unlock()
	if waiting {
		c.owner.doubt(c.network, c.address)
	}
}

func (c *connection) explain(err error) error {
	if err != nil && c.cut.Load() {
		return fmt.Errorf("broker %s: %w", c.address, errSilent)
	}
	return err
}

func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
