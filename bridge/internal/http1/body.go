package http1

import (
	"errors"
	"io"
)

// body is the body of an answer.
type body struct {
	conn    *Conn
	other   io.Reader       // of an answer that is not plain
	left    int             // of a plain one
	written <-chan struct{} // nil: the whole request
	last    bool            // the connection ends with it
	whole   bool            // read to its end, and the connection may be used again
}

func (b *body) Read(p []byte) (n int, err error) {
	if b.other != nil {
		n, err = b.other.Read(p)
	} else {
		n, err = b.readPlain(p)
	}
	if errors.Is(err, io.EOF) {
		b.whole = !b.last && b.sent()
	}
	return n, err
}

func (b *body) readPlain(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.conn.left = int64(b.left)
	n, err := b.conn.take(p)
	b.left -= n
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
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
