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
// acknowledge the next event unseen. So whatever came with an answer and is not
// part of it ends the connection, and the last step before a request is written
// is to see that the socket has nothing to read. A kept connection that turns out
// to be dead before a byte of the answer came is replaced once. Any other failure
// is the caller's to retry.
//
// # Files
//
// conn.go is a connection from post to post, turn.go a request and the first bytes
// of its answer, answer.go what those bytes say, and body.go the rest.
package http1

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// idleLimit is how long a connection is kept without a post. Firewalls forget
// one after some minutes, and then a post would wait for its time-out.
const idleLimit = 90 * time.Second

// Conn is a connection to one sink, opened when it is first needed and kept
// between posts. It is for one goroutine; Close and the end of its context may
// come from another.
type Conn struct {
	dial    func(context.Context) (net.Conn, error)
	timeout time.Duration
	ctx     context.Context //nolint:containedctx // ends every post
	stop    func() bool

	mu    sync.Mutex
	nc    net.Conn // nil: none is open
	ended atomic.Bool

	raw      syscall.RawConn // of nc; nil when it has none
	until    time.Time       // deadline of nc; zero when it is not known
	lastUsed time.Time       // beginning of the last post
	out      []byte          // a request, up to oneWrite
	more     []byte          // the rest of its body
	turn     turn            // the post under way
	turned   func(fd uintptr) bool

	in       [4 << 10]byte // what was read
	at, end  int           // of in: what nobody has taken
	left     int64         // how much may still be read
	reader   *bufio.Reader // of take, for answers that are not plain; nil before the first
	response http.Response
	accepts  http.Header    // of the last plain answer that had one; never written to
	answer   body           // of the last post
	writing  sync.WaitGroup // the rest of a request
}

// New returns a connection that dials when it is first used; a post may take
// timeout, from the dial to the end of the answer. The end of ctx interrupts a
// post. Close it after its last use.
func New(ctx context.Context, timeout time.Duration, dial func(context.Context) (net.Conn, error)) *Conn {
	c := &Conn{dial: dial, timeout: timeout, ctx: ctx}
	c.turned = c.takeTurn
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
	c.ended.Store(true)
	if c.nc != nil {
		_ = c.nc.SetDeadline(time.Unix(1, 0))
	}
}

// Post sends head, which is a request line and headers with the empty line after
// them, and body, and returns the answer. It is valid until the next post. Its
// body is read before that; how far decides whether the connection is kept. Of a 2xx
// without Retry-After the headers may be missing. Neither head nor body is used after
// Post has returned.
func (c *Conn) Post(head, body []byte) (*http.Response, error) {
	c.writing.Wait() // it ends when its connection does
	now := time.Now()
	if c.usable(now) {
		resp, err := c.exchange(head, body, true)
		if err == nil || !errors.Is(err, errDead) || c.ctx.Err() != nil {
			return resp, plain(err)
		}
	}
	if err := c.open(now); err != nil {
		return nil, err
	}
	resp, err := c.exchange(head, body, false)
	return resp, plain(err)
}

// errDead says that the connection ended before a byte of the answer came.
var errDead = errors.New("connection closed before an answer")

// plain is err without errDead, which is about this package.
func plain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, errDead) {
		return joined.Unwrap()[1]
	}
	return err
}

// usable closes a connection that may not be used again. What it has in its
// socket is looked at later, see turn.
func (c *Conn) usable(now time.Time) bool {
	if c.nc == nil {
		return false
	}
	if c.answer.whole && now.Sub(c.lastUsed) < idleLimit && c.unread() == 0 && c.within(now) == nil {
		c.lastUsed = now
		return true
	}
	c.drop()
	return false
}

// unread is how much of what was read is not part of the answer.
func (c *Conn) unread() int {
	n := c.end - c.at
	if c.reader != nil {
		n += c.reader.Buffered()
	}
	return n
}

func (c *Conn) open(now time.Time) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(c.ctx, now.Add(c.timeout))
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.nc = nc
	c.mu.Unlock()
	c.raw, c.until, c.lastUsed = rawConn(nc), time.Time{}, now
	if err := c.within(now); err != nil {
		c.drop()
		return err
	}
	return nil
}

// drop closes the connection, and with it ends the write of a request.
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
//
// A deadline costs a timer, so one serves many posts: a post may take up to a
// 64th longer than its time. If the context ends after it was found not to be,
// interrupt sets a deadline that nobody replaces before the next post.
func (c *Conn) within(now time.Time) error {
	deadline := now.Add(c.timeout)
	grace := c.timeout / 64
	if over := c.until.Sub(deadline); over >= 0 && over <= grace && !c.ended.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return c.ctx.Err()
	}
	c.until = deadline.Add(grace)
	return c.nc.SetDeadline(c.until)
}
