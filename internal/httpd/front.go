package httpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// front accepts the connections of a port and answers plain requests (see plainRequest) on
// them by itself. With the first request that is not plain it gives the connection
// to net/http, which begins at that request and keeps it.
//
// What it saves is what net/http does to notice that a client leaves while its
// request is worked on (a second goroutine that reads meanwhile), its deadlines, and
// the layers between handler and socket: half of the cost of a small request. In
// return, a request's context ends with the service only; so plain requests are
// short ones.
//
// A request is read whole before its handler begins, so that the handler never waits
// for the client, and is answered in one write.
type front struct {
	door    net.Listener
	handler http.Handler
	other   *handed // the rest
	server  *http.Server
	errors  *stdlog.Logger

	ctx      context.Context // of every request
	cancel   context.CancelFunc
	stopping atomic.Bool
	serving  sync.WaitGroup

	mu      sync.Mutex
	conns   map[*frontConn]struct{}
	working int           // of conns
	quiet   chan struct{} // closed when the server stops and none works any more
}

const (
	headBytes   = 4 << 10 // a longer header is not plain
	headTime    = 5 * time.Second
	idleTime    = 2 * time.Minute
	writeTime   = time.Minute
	answerBytes = 64 << 10 // more of an answer than this is sent piece by piece
)

// newFront serves l: plain requests by h, the rest by server.
func newFront(l net.Listener, h http.Handler, server *http.Server) *front {
	f := &front{door: l, handler: h, server: server, errors: server.ErrorLog, conns: map[*frontConn]struct{}{}, quiet: make(chan struct{}),
		other: &handed{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}}
	f.ctx, f.cancel = context.WithCancel(context.WithValue(context.WithValue(context.Background(), http.ServerContextKey, server), http.LocalAddrContextKey, l.Addr()))
	return f
}

// serve returns http.ErrServerClosed after shutdown.
func (f *front) serve() error {
	if !f.start(func() { _ = f.server.Serve(f.other) }) { // ends when other is closed
		return http.ErrServerClosed
	}
	for {
		c, err := f.door.Accept()
		switch {
		case err == nil && f.start(func() { f.serveConn(c) }):
		case err == nil:
			_ = c.Close()
		case f.stopping.Load():
			return http.ErrServerClosed
		default:
			_ = f.other.Close()
			return err
		}
	}
}

// start starts a goroutine that shutdown waits for, unless it may wait already.
func (f *front) start(serve func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping.Load() {
		return false
	}
	f.serving.Go(serve)
	return true
}

// shutdown stops accepting, closes connections without a request, and waits for the
// others as http.Server.Shutdown does.
func (f *front) shutdown(ctx context.Context) error {
	f.mu.Lock()
	f.stopping.Store(true)
	for c := range f.conns {
		if !c.working {
			_ = c.Close()
		}
	}
	if f.working == 0 {
		close(f.quiet)
	}
	f.mu.Unlock()
	_ = f.door.Close()
	if err := f.server.Shutdown(ctx); err != nil { // closes other
		return err
	}
	_ = f.other.Close() // if it was not served yet
	select {
	case <-f.quiet:
	default:
		select {
		case <-f.quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.serving.Wait() // all connections are closed, or about to be
	f.cancel()
	return nil
}

// close ends the connections that are still busy.
func (f *front) close() error {
	f.cancel()
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	return f.server.Close()
}

// frontConn is a connection while a front has it. Its goroutine owns all but
// working.
type frontConn struct {
	*conn
	front   *front
	in      *bufio.Reader
	base    *http.Request // what all requests have in common
	reply   reply
	data    []byte // of a body
	body    wholeBody
	readBy  time.Time // deadlines that are set
	writeBy time.Time
	working bool // guarded by front.mu
}

// wholeBody is a body that was read.
type wholeBody struct{ bytes.Reader }

func (*wholeBody) Close() error { return nil }

func (f *front) serveConn(accepted net.Conn) {
	held := accepted.(*conn) // the door makes no others
	c := &frontConn{conn: held, front: f, in: bufio.NewReaderSize(held, headBytes), base: (&http.Request{RemoteAddr: held.RemoteAddr().String()}).WithContext(context.WithValue(f.ctx, connKey{}, held))}
	handOver := f.hold(c) && c.serve()
	f.mu.Lock()
	delete(f.conns, c)
	f.release(c) // of a handler that has panicked
	f.mu.Unlock()
	if !handOver {
		_ = held.Close()
		return
	}
	held.replay, _ = c.in.Peek(c.in.Buffered())
	f.other.give(held)
}

// hold reports false when the server stops.
func (f *front) hold(c *frontConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	return !f.stopping.Load()
}

// serve answers plain requests; true means that net/http has to go on.
func (c *frontConn) serve() (handOver bool) {
	defer func() {
		if err := recover(); err != nil {
			handOver = false
			if err != http.ErrAbortHandler { //nolint:errorlint // a value, as in net/http
				c.front.errors.Printf("panic serving %v: %v\n%s", c.RemoteAddr(), err, debug.Stack())
			}
		}
	}()
	for wait := headTime; ; wait = idleTime {
		head, err := c.readHead(wait)
		if err != nil {
			return false // the client is gone, or too slow
		}
		p, ok := parsePlain(head)
		if !ok {
			return true
		}
		r, err := p.request(c.base)
		if err != nil {
			return true // net/http says so
		}
		_, _ = c.in.Discard(len(head)) // it is buffered
		if !c.begin() || c.readBody(r) != nil || !c.answer(r) {
			return false
		}
	}
}

// readHead waits for the header of a request and returns what there is of it: with
// its empty line, or without when it is not plain.
func (c *frontConn) readHead(wait time.Duration) ([]byte, error) {
	if c.in.Buffered() == 0 {
		c.readWithin(wait, wait/8)
		if _, err := c.in.Peek(1); err != nil {
			return nil, err
		}
	}
	for slow := false; ; slow = true {
		b, _ := c.in.Peek(c.in.Buffered())
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
			return b[:i+4], nil
		}
		if len(b) == headBytes || !mayBePlain(b) {
			return b, nil
		}
		if !slow {
			c.readWithin(headTime, 0)
		}
		if _, err := c.in.Peek(len(b) + 1); errors.Is(err, io.EOF) {
			return b, nil // net/http answers that
		} else if err != nil {
			return nil, err
		}
	}
}

// mayBePlain is false for the begin of a header that no more bytes make plain.
func mayBePlain(begin []byte) bool {
	n := min(len(begin), len("POST /"))
	i := bytes.IndexByte(begin, '\n')
	return string(begin[:n]) == "POST /"[:n] && (i < 0 || i > 0 && begin[i-1] == '\r')
}

// readBody reads the body of r.
func (c *frontConn) readBody(r *http.Request) error {
	n := int(r.ContentLength)
	if c.in.Buffered() < n {
		c.conn.wait()
		c.readWithin(requestTime, 0)
	}
	c.data = slices.Grow(c.data[:0], n)[:n]
	_, err := io.ReadFull(c.in, c.data)
	c.body.Reset(c.data)
	r.Body = &c.body
	return err
}

// answer lets the handler work and sends its answer; false ends the connection.
func (c *frontConn) answer(r *http.Request) bool {
	c.conn.work()
	c.reply.reset(c)
	c.front.handler.ServeHTTP(&c.reply, r)
	c.conn.wait()
	sent := c.reply.finish()
	return c.end() && sent
}

// begin notes that there is a request, which is answered although the server stops
// meanwhile. It reports false when it stops already: the request has no effect.
func (c *frontConn) begin() bool {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	if c.front.stopping.Load() {
		return false
	}
	c.working = true
	c.front.working++
	return true
}

func (c *frontConn) end() bool {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	c.front.release(c)
	return !c.front.stopping.Load()
}

// release is called with mu held.
func (f *front) release(c *frontConn) {
	if !c.working {
		return
	}
	c.working = false
	if f.working--; f.working == 0 && f.stopping.Load() {
		close(f.quiet)
	}
}

// readWithin sets the deadline of what is read next; slack saves a call when the
// deadline that is set is not much earlier.
func (c *frontConn) readWithin(d, slack time.Duration) {
	by := time.Now().Add(d)
	if late := by.Sub(c.readBy); late < 0 || late > slack {
		c.readBy = by
		_ = c.SetReadDeadline(by) // fails when the connection is closed, and then so does the read
	}
}

func (c *frontConn) writeWithin(d time.Duration) {
	by := time.Now().Add(d)
	if by.Sub(c.writeBy) > d/4 {
		c.writeBy = by
		_ = c.SetWriteDeadline(by)
	}
}

// handed is the listener of the connections that net/http goes on with.
type handed struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// give closes c when the server stops.
func (h *handed) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close()
	}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return h.addr }
