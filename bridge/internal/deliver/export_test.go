package deliver

import (
	"net"
	"time"
)

// Resolve makes the client look names up with r.
func (c *Client) Resolve(r *net.Resolver) { c.dialer.Resolver = r }

// PingAfter makes a client with TLS files notice a dead HTTP/2 connection sooner.
func (c *Client) PingAfter(d time.Duration) {
	c.http.pings.SendPingTimeout, c.http.pings.PingTimeout = d, d
}

// AnsweredBatch is for a fuzz test.
var AnsweredBatch = answeredBatch

// Shared is what a worker does for an https sink.
var Shared = (*Client).shared
