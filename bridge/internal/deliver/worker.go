package deliver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/taskwire/taskwire/bridge/internal/http1"
)

// Worker posts for one goroutine. To a sink without TLS it has a connection of its
// own; the others share theirs, since only the handshake tells whether a sink
// speaks HTTP/2.
type Worker struct {
	client *Client
	ctx    context.Context //nolint:containedctx // ends every post
	conn   *http1.Conn     // nil: those of the client
	start  []byte          // of each request's head
	head   []byte
	scratch
}

// Worker returns a worker, whose posts end with ctx. It opens no connection. Close
// it after its last post.
func (c *Client) Worker(ctx context.Context) *Worker {
	w := &Worker{client: c, ctx: ctx}
	if c.url.Scheme == "https" {
		return w
	}
	address := c.url.Host
	if c.url.Port() == "" {
		address = net.JoinHostPort(c.url.Hostname(), "80")
	}
	w.conn = http1.New(ctx, c.timeout, func(ctx context.Context) (net.Conn, error) { return c.http.dial(ctx, "tcp", address) })
	w.start = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\n", c.url.RequestURI(), c.url.Host)
	return w
}

// Close closes the worker's own connection.
func (w *Worker) Close() {
	if w.conn != nil {
		w.conn.Close()
	}
}

// Attempt posts once. An answer counts only when it is complete.
func (w *Worker) Attempt(p Post) Result {
	if w.conn == nil {
		return w.client.shared(w.ctx, p)
	}
	return w.client.attempt(p, &w.scratch, func(f fields) (*http.Response, error) {
		if err := w.write(f, len(p.body())); err != nil {
			return nil, err
		}
		return w.conn.Post(w.head, p.body())
	})
}

// write makes the head of a request.
func (w *Worker) write(f fields, length int) error {
	b := append(w.head[:0], w.start...)
	for _, one := range f {
		if !printable(one.value) {
			return &unsentError{fmt.Errorf("the header %s has a control character", one.name)}
		}
		b = append(append(append(append(b, one.name...), ": "...), one.value...), "\r\n"...)
	}
	b = strconv.AppendInt(append(b, "Content-Length: "...), int64(length), 10)
	w.head = append(b, "\r\n\r\n"...)
	return nil
}

// printable: a line feed in a value would begin another header.
func printable(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// shared posts once, over connections that all workers share.
func (c *Client) shared(ctx context.Context, p Post) Result {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.attempt(p, &scratch{}, func(f fields) (*http.Response, error) { return c.http.RoundTrip(c.request(ctx, f.header(), p)) })
}

// request is built by hand, for RoundTrip, which unlike http.Client follows no redirects.
func (c *Client) request(ctx context.Context, h http.Header, p Post) *http.Request {
	body := func() (io.ReadCloser, error) {
		if p.Batch != nil {
			return p.Batch.reader(), nil
		}
		if len(p.Body) == 0 {
			return http.NoBody, nil // of any other body a length of 0 means that it is not known
		}
		return io.NopCloser(bytes.NewReader(p.Body)), nil
	}
	first, _ := body()
	req := &http.Request{
		Method: http.MethodPost, URL: c.url, Host: c.url.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		// GetBody lets the transport repeat a request whose idle connection had died before a byte was sent.
		Body: first, GetBody: body, ContentLength: int64(len(p.body())),
	}
	return req.WithContext(ctx)
}
