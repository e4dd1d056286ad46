package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// oneWrite is the size up to which head and body go into one buffer, and so into one
// system call. What follows of a longer body is sent from where it is.
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
	n := min(len(content), max(0, oneWrite-len(head)))
	c.out, c.more = append(append(c.out[:0], head...), content[:n]...), content[n:]
	defer func() { c.more = nil }()
	c.turn = turn{kept: kept}
	if c.raw != nil {
		if err := c.takeTurns(); err != nil {
			return nil, err
		}
		return c.sendRest(), nil
	}
	if kept && !quiet(c.nc) {
		return nil, errUnasked
	}
	if len(c.more) > 0 {
		return c.sendRest(), nil
	}
	n, err = c.nc.Write(c.out)
	c.turn.sent = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
	return nil, err
}

// sendRest sends what the socket has not taken at once. That is for a goroutine,
// with a copy: a sink may answer before it has read all, and the answer may come to
// the caller before the rest is sent.
func (c *Conn) sendRest() (written <-chan struct{}) {
	wrote := c.turn.wrote
	if wrote == len(c.out)+len(c.more) {
		return nil
	}
	rest := make([]byte, 0, len(c.out)+len(c.more)-wrote)
	rest = append(rest, c.out[min(wrote, len(c.out)):]...)
	rest = append(rest, c.more[max(0, wrote-len(c.out)):]...)
	done, nc := make(chan struct{}), c.nc
	c.writing.Go(func() {
		if _, err := nc.Write(rest); err == nil {
			close(done)
		}
	})
	return done
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
	wrote int  // bytes
	err   error
}

// takeTurns sends the request, as far as the socket takes it, and reads the beginning
// of the answer.
func (c *Conn) takeTurns() error {
	err := c.raw.Read(c.turned)
	switch {
	case err == nil:
		return c.turn.err
	case c.turn.sent && errors.Is(err, os.ErrDeadlineExceeded):
		return nil // the next read says so, in its own words
	}
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
		if t.err = c.write(fd); t.err != nil || t.wrote < len(c.out)+len(c.more) {
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

// write sends as much as the socket takes at present.
func (c *Conn) write(fd uintptr) error {
	for _, b := range [2][]byte{c.out, c.more} {
		if len(b) == 0 {
			continue
		}
		n, err := retry(func() (int, error) { return syscall.Write(int(fd), b) })
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		if c.turn.wrote += n; n < len(b) {
			return nil
		}
	}
	return nil
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
