package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// oneWrite is the size up to which head and body go into one buffer. A longer
// body is written by a goroutine of its own, since a sink may answer before it
// has read it all.
const oneWrite = 32 << 10

// exchange sends a request and reads the head of its answer. kept: the connection
// has had posts before.
func (c *Conn) exchange(head, content []byte, kept bool) (*http.Response, error) {
	c.answer = body{conn: c}
	c.at, c.end = 0, 0
	written, err := c.send(head, content, kept)
	if err != nil && !(c.turn.sent && c.answered()) {
		c.drop()
		return nil, fmt.Errorf("%w: %w", errDead, err)
	}
	resp, err := c.read()
	if err != nil {
		c.drop()
		return nil, err
	}
	c.answer.written, c.answer.last = written, resp.Close
	resp.Body = &c.answer
	return resp, nil
}

// send sends the request. written is closed when all of it was sent; nil when it
// has been, and then the beginning of the answer may have been read, too.
func (c *Conn) send(head, content []byte, kept bool) (written <-chan struct{}, err error) {
	c.turn = turn{kept: kept}
	short := len(head)+len(content) <= oneWrite
	if short {
		c.out = append(append(c.out[:0], head...), content...)
	}
	if short && c.raw != nil {
		return nil, c.takeTurns()
	}
	if kept && !quiet(c.nc) {
		return nil, errUnasked
	}
	if short {
		n, err := c.nc.Write(c.out)
		c.turn.sent = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
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

// errUnasked: bytes that came unasked are no answer to the next request.
var errUnasked = errors.New("the sink has closed the connection, or sent more than its answer")

// answered reports whether an answer has come although the request could not be
// written: a sink may refuse a request and close. It does not wait for one.
func (c *Conn) answered() bool {
	c.until = time.Time{}
	_ = c.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	return c.fill() == nil
}

// fill reads what there is, at least one byte.
func (c *Conn) fill() error {
	n, err := c.nc.Read(c.in[:])
	c.at, c.end = 0, n
	if n > 0 {
		return nil
	}
	return err
}

// turn is a request on its way out and the wait for its answer, in one visit to
// the runtime's poller. net.Conn would look for an answer once right after the
// request was written, in vain; here this look comes before the request, where it
// shows that nothing has come unasked.
//
// The order makes sure that no answer is missed: the poller is reset, then the
// socket is found empty, then the request is written. So an answer comes after the
// reset, and wakes whoever waits.
type turn struct {
	kept  bool
	sent  bool // as much of the request as the socket took, if any
	wrote int
	err   error
}

// takeTurns sends c.out and reads the beginning of the answer.
func (c *Conn) takeTurns() error {
	if err := c.raw.Read(c.turned); err != nil {
		if !c.turn.sent || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return nil // the next read says so, in its own words
	}
	if c.turn.err != nil || c.turn.wrote == len(c.out) {
		return c.turn.err
	}
	_, err := c.nc.Write(c.out[c.turn.wrote:]) // the socket is full
	return err
}

// takeTurn is called at once, and again whenever there may be something to read;
// true ends that.
func (c *Conn) takeTurn(fd uintptr) bool {
	t := &c.turn
	if !t.sent {
		empty := isEmpty(fd)
		if !empty && t.kept {
			t.err = errUnasked
			return true
		}
		t.sent = true
		if t.wrote, t.err = write(fd, c.out); t.err != nil || t.wrote < len(c.out) {
			return true
		}
		if empty {
			return false
		}
	}
	n, err := retry(func() (int, error) { return syscall.Read(int(fd), c.in[:]) })
	if errors.Is(err, syscall.EAGAIN) {
		return false
	}
	c.at, c.end = 0, max(n, 0)
	return true // an error, or the end, comes again with the next read
}

// write returns fewer bytes when the socket takes no more at present.
func write(fd uintptr, b []byte) (int, error) {
	n, err := retry(func() (int, error) { return syscall.Write(int(fd), b) })
	if errors.Is(err, syscall.EAGAIN) {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("write", err)
	}
	return n, nil
}

// isEmpty reports whether a socket is open and has nothing to read.
func isEmpty(fd uintptr) bool {
	var b [1]byte
	_, err := retry(func() (int, error) {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	})
	return errors.Is(err, syscall.EAGAIN)
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// rawConn is nil for a connection that is not a socket itself.
func rawConn(nc net.Conn) syscall.RawConn {
	conn, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// quiet reports whether nothing has come unasked, as far as that can be seen.
func quiet(nc net.Conn) bool {
	raw := rawConn(nc)
	if raw == nil {
		return true
	}
	empty := false
	err := raw.Read(func(fd uintptr) bool {
		empty = isEmpty(fd)
		return true
	})
	return err == nil && empty
}

// take reads what is left of in, and then from the connection; bufio reads from it.
func (c *Conn) take(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	if len(p) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in[c.at:c.end])
	c.at += n
	var err error
	if n == 0 {
		n, err = c.nc.Read(p)
	}
	c.left -= int64(n)
	return n, err
}
