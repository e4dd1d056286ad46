package kafka

import (
	"context"
	"net"
	"sync"
)

// connections are those that are open. The zero value has none.
type connections struct {
	mu     sync.Mutex
	closed bool
	open   map[*connection]struct{}
}

// tracked makes dial add its connections.
func (c *connections) tracked(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		tracked := &connection{Conn: conn, owner: c}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			_ = conn.Close()
			return nil, net.ErrClosed
		}
		if c.open == nil {
			c.open = map[*connection]struct{}{}
		}
		c.open[tracked] = struct{}{}
		return tracked, nil
	}
}

// close closes all connections, and those that are still being dialed.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Conn.Close()
	}
	clear(c.open)
}

// connection leaves its owner when it is closed.
type connection struct {
	net.Conn
	owner *connections
}

func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
