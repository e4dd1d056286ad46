// Package http1 posts over HTTP/1.1 connections that each belong to one
// goroutine.
//
// net/http's Transport hands a request to the goroutine that writes its
// connection and takes the answer from the one that reads it. Those hand-overs
// cost more than the request. The bridge has a worker for each post in flight, so
// the worker can be the connection: it writes a request in one system call and
// reads the answer itself.
//
// # What an answer is
//
// An answer belongs to the request only if nothing was unread when the request
// was written; a sink that sends two answers to one request would otherwise
// acknowledge the next event unseen. A kept connection that turns out to be dead
// before a byte of the answer came is replaced once. Any other failure is the
// caller's to retry.
package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// headerLimit bounds the head of an answer in bytes.
	headerLimit = 64 << 10
	// interimLimit bounds the answers 1xx before the one that counts.
	interimLimit = 5
	// oneWrite is the size up to which head and body go into one buffer. A longer
	// body is written by a goroutine of its own, since a sink may answer before it
	// has read it all.
	oneWrite = 32 << 10
	// idleLimit is how long a connection is kept without a post. Firewalls forget
	// one after some minutes, and then a post would wait for its time-out.
	idleLimit = 90 * time.Second
)

// Conn is a connection to one sink, opened when it is first needed and kept
// between posts. It is for one goroutine; Close and the end of its context may
// come from another.
type Conn struct {
	dial func(context.Context) (net.Conn, error)
	ctx  context.Context //nolint:containedctx // ends every post
	stop func() bool

	mu    sync.Mutex
	nc    net.Conn // nil: none is open
	ended bool     // ctx is done

	limited  io.LimitedReader // of nc
	reader   *bufio.Reader    // of limited
	out      []byte
	answer   *body // of the last post; nil before the first
	lastUsed time.Time
	writing  sync.WaitGroup // a long body
}

// New returns a connection that dials when it is first used. The end of ctx
// interrupts a post. Close it after its last use.
func New(ctx context.Context, dial func(context.Context) (net.Conn, error)) *Conn {
	c := &Conn{dial: dial, ctx: ctx}
	c.reader = bufio.NewReaderSize(&c.limited, 4<<10)
	c.stop = context.AfterFunc(ctx, c.interrupt)
	return c
}

// Close closes the connection.
func (c *Conn) Close() {
	c.stop()
	c.drop()
}

// interrupt ends what the connection waits for.
func (c *Conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.nc != nil {
		_ = c.nc.SetDeadline(time.Unix(1, 0))
	}
}

// Post sends head, which is a request line and headers with the empty line after
// them, and body, and returns the answer; all of that until deadline. The answer's
// body is read before the next post; how far decides whether the connection is
// kept. Neither head nor body is used after Post has returned.
func (c *Conn) Post(deadline time.Time, head, body []byte) (*http.Response, error) {
	c.writing.Wait() // it ends when its connection does
	if c.usable(deadline) {
		resp, err := c.exchange(head, body)
		if err == nil || !errors.Is(err, errDead) || c.ctx.Err() != nil {
			return resp, plain(err)
		}
	}
	if err := c.open(deadline); err != nil {
		return nil, err
	}
	resp, err := c.exchange(head, body)
	return resp, plain(err)
}

// errDead says that the connection ended before a byte of the answer came.
var errDead = errors.New("connection closed before an answer")

// usable closes a connection that may not be used again.
func (c *Conn) usable(deadline time.Time) bool {
	if c.nc == nil {
		return false
	}
	if c.answer != nil && c.answer.whole && time.Since(c.lastUsed) < idleLimit && c.reader.Buffered() == 0 &&
		c.within(deadline) == nil && quiet(c.nc) {
		return true
	}
	c.drop()
	return false
}

func (c *Conn) open(deadline time.Time) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(c.ctx, deadline)
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.nc = nc
	c.mu.Unlock()
	c.limited.R = nc
	c.reader.Reset(&c.limited)
	if err := c.within(deadline); err != nil {
		c.drop()
		return err
	}
	return nil
}

// drop closes the connection, and with it ends the write of a long body.
func (c *Conn) drop() {
	c.mu.Lock()
	nc := c.nc
	c.nc = nil
	c.mu.Unlock()
	if nc != nil {
		_ = nc.Close()
	}
	c.writing.Wait()
}

// within bounds what follows. It fails when the context is done, which may have
// been before the connection was opened.
func (c *Conn) within(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return c.ctx.Err()
	}
	return c.nc.SetDeadline(deadline)
}

func (c *Conn) exchange(head, content []byte) (*http.Response, error) {
	c.answer = nil
	written, err := c.write(head, content)
	if err != nil && !c.answered() {
		c.drop()
		return nil, fmt.Errorf("%w: %w", errDead, err)
	}
	resp, err := c.read()
	if err != nil {
		c.drop()
		return nil, err
	}
	c.lastUsed = time.Now()
	c.answer = &body{ReadCloser: resp.Body, conn: c, written: written, last: resp.Close}
	resp.Body = c.answer
	return resp, nil
}

// write sends the request. written is closed when all of it was sent; nil when it
// has been.
func (c *Conn) write(head, content []byte) (written <-chan struct{}, err error) {
	if len(head)+len(content) <= oneWrite {
		c.out = append(append(c.out[:0], head...), content...)
		_, err := c.nc.Write(c.out)
		return nil, err
	}
	done := make(chan struct{})
	nc, head, content := c.nc, bytes.Clone(head), bytes.Clone(content)
	c.writing.Go(func() {
		buffers := net.Buffers{head, content}
		if _, err := buffers.WriteTo(nc); err == nil {
			close(done)
		}
	})
	return done, nil
}

// answered reports whether an answer has come although the request could not be
// written: a sink may refuse a request and close. It does not wait for one.
func (c *Conn) answered() bool {
	c.limited.N = headerLimit
	_ = c.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.reader.Peek(1)
	return err == nil
}

func (c *Conn) read() (*http.Response, error) {
	c.limited.N = headerLimit
	if _, err := c.reader.Peek(1); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errDead, err)
	}
	for range interimLimit + 1 {
		resp, err := http.ReadResponse(c.reader, post)
		switch {
		case err != nil && c.limited.N <= 0:
			return nil, fmt.Errorf("the head of the answer is longer than %d bytes", headerLimit)
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			resp.Close = true // what follows is not HTTP
			return resp, nil
		case resp.StatusCode >= 200:
			c.limited.N = math.MaxInt64
			return resp, nil
		}
	}
	return nil, fmt.Errorf("more than %d answers 1xx", interimLimit)
}

// post tells http.ReadResponse which answers have a body.
var post = &http.Request{Method: http.MethodPost}

// plain is err without errDead, which is about this package.
func plain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, errDead) {
		return joined.Unwrap()[1]
	}
	return err
}

// body is the body of an answer.
type body struct {
	io.ReadCloser
	conn    *Conn
	written <-chan struct{} // nil: the whole request
	last    bool            // the connection ends with it
	whole   bool            // read to its end, and the connection may be used again
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole = !b.last && b.sent()
	}
	return n, err
}

// Close does not wait for the rest of the answer.
func (b *body) Close() error {
	if !b.whole {
		b.conn.drop()
	}
	return nil
}

// sent reports whether the whole request was.
func (b *body) sent() bool {
	if b.written == nil {
		return true
	}
	select {
	case <-b.written:
		return true
	default:
		return false
	}
}
