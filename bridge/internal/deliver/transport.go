package deliver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	dialTimeout = 5 * time.Second
	// An HTTP/2 connection carries many posts, and a time-out of one does not end
	// it. So one that is silent for pingAfter is asked for a sign of life.
	pingAfter = 10 * time.Second
)

// connections are those to one sink: HTTP/1.1, or HTTP/2 where the sink offers it
// in the TLS handshake. A change of a TLS file ends them, each when its posts have
// ended: what was let in under a revoked certificate does not stay.
type connections struct {
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	tls   *TLS             // nil: the system's
	pings http.HTTP2Config // how a dead HTTP/2 connection is noticed

	mu      sync.Mutex
	current *http.Transport // guarded by mu, unless tls is nil
	of      *tls.Config     // guarded by mu: the settings of current
}

func newConnections(dial func(context.Context, string, string) (net.Conn, error), settings *TLS) *connections {
	c := &connections{dial: dial, tls: settings, pings: http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: dialTimeout}}
	if settings == nil {
		c.current = c.transport(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	return c
}

// transport keeps as many connections as posts were ever in flight at once. It
// uses no proxy and requests no compression.
func (c *connections) transport(settings *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            c.dial,
		TLSClientConfig:        settings,
		MaxIdleConnsPerHost:    1 << 16, // the posts in flight bound the connections; all are worth keeping
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &c.pings,
	}
}

// RoundTrip follows no redirects.
func (c *connections) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := c.get()
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		// Its body is the connection, from then on without any time-out.
		_ = resp.Body.Close()
		resp.Body = http.NoBody
	}
	return resp, err
}

func (c *connections) get() (*http.Transport, error) {
	if c.tls == nil {
		return c.current, nil
	}
	settings, err := c.tls.Config()
	if err != nil {
		return nil, &unsentError{fmt.Errorf("tls.%w", err)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != settings {
		if c.current != nil {
			c.current.CloseIdleConnections()
		}
		c.current, c.of = c.transport(settings.Clone()), settings
	}
	return c.current, nil
}

// close closes the idle connections.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.CloseIdleConnections()
	}
}

// unsentError says why nothing was sent: something that the bridge needs for it
// is not there.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }
