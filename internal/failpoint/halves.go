//go:build failpoint

package failpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/http"
)

// Answers adds two points to the 2xx of every method but GET: before it, and after
// half of its body.
func Answers(before, half string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w = &answer{ResponseWriter: w, before: before, half: half}
		}
		h.ServeHTTP(w, r)
	})
}

type answer struct {
	http.ResponseWriter
	before, half string
	accepted     bool // the answer is a 2xx
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.accepted = status/100 == 2; a.accepted {
		Hit(a.before)
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.accepted {
		HitAfter(a.half, func() {
			_, _ = a.ResponseWriter.Write(b[:len(b)/2])
			_ = http.NewResponseController(a.ResponseWriter).Flush()
		})
	}
	return a.ResponseWriter.Write(b)
}

// HalfWrites adds a point in the middle of each write to a connection.
func HalfWrites(point string, d dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d(ctx, network, address)
		return halfConn{c, point}, err
	}
}

type halfConn struct {
	net.Conn
	point string
}

// Write stops in the middle of the body, or of b when b has no end of a header.
func (c halfConn) Write(b []byte) (int, error) {
	HitAfter(c.point, func() {
		header := max(0, bytes.Index(b, []byte("\r\n\r\n")))
		_, _ = c.Conn.Write(b[:(header+len(b))/2])
	})
	return c.Conn.Write(b)
}

// Kafka adds points after whole requests: R2 after a produce, B4 after a commit.
func Kafka(d dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d(ctx, network, address)
		return &kafkaConn{Conn: c}, err
	}
}

// kafkaConn follows the frames that are written: four bytes of length, two of
// the API key, the rest.
type kafkaConn struct {
	net.Conn
	head []byte // of the frame, up to six bytes
	left int    // bytes of the frame after them
}

func (c *kafkaConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	for b := b[:n]; len(b) > 0; {
		if len(c.head) < 6 {
			take := min(6-len(c.head), len(b))
			c.head, b = append(c.head, b[:take]...), b[take:]
			if len(c.head) == 6 {
				c.left = int(binary.BigEndian.Uint32(c.head)) - 2
			}
			continue
		}
		take := min(c.left, len(b))
		c.left, b = c.left-take, b[take:]
		if c.left == 0 {
			c.sent(binary.BigEndian.Uint16(c.head[4:]))
			c.head = c.head[:0]
		}
	}
	return n, err
}

func (c *kafkaConn) sent(key uint16) {
	switch key {
	case 0: // Produce
		Hit("R2")
	case 8: // OffsetCommit
		Hit("B4")
	}
}
