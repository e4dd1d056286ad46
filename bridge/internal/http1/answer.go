package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
)

const (
	// headerLimit bounds the head of an answer in bytes.
	headerLimit = 64 << 10
	// interimLimit bounds the answers 1xx before the one that counts.
	interimLimit = 5
)

// read reads the head of an answer.
func (c *Conn) read() (*http.Response, error) {
	if c.at == c.end {
		if err := c.fill(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", errDead, err)
		}
	}
	if a, ok := parse(c.in[c.at:c.end]); ok {
		c.at += a.size
		c.answer.left = a.length
		c.response = http.Response{StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(a.length), Header: c.takes(a.accepts)}
		return &c.response, nil
	}
	return c.readAny()
}

// takes is the header of a plain answer: what the sink accepts as a post, which it
// says in each answer or in none.
func (c *Conn) takes(accepts []byte) http.Header {
	if len(accepts) == 0 {
		return nil
	}
	if values := c.accepts[acceptPost]; len(values) == 0 || values[0] != string(accepts) {
		c.accepts = http.Header{acceptPost: {string(accepts)}}
	}
	return c.accepts
}

const acceptPost = "Accept-Post"

// readAny reads an answer of any kind, as net/http does.
func (c *Conn) readAny() (*http.Response, error) {
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(nil, 4<<10)
	}
	c.left = headerLimit
	c.reader.Reset(readerFunc(c.take))
	for range interimLimit + 1 {
		resp, err := http.ReadResponse(c.reader, post)
		switch {
		case err != nil && c.left <= 0:
			return nil, fmt.Errorf("the head of the answer is longer than %d bytes", headerLimit)
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			resp.Close = true // what follows is not HTTP
		case resp.StatusCode < 200:
			continue
		}
		c.left = math.MaxInt64
		c.answer.other = resp.Body
		return resp, nil
	}
	return nil, fmt.Errorf("more than %d answers 1xx", interimLimit)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// post tells http.ReadResponse which answers have a body.
var post = &http.Request{Method: http.MethodPost}

// plainAnswer is an answer to a post that went well, of a length that is known and
// over a connection that stays, and without a header that matters beside these.
type plainAnswer struct {
	status int
	length int // of its body
	size   int // of its head

	accepts []byte // its Accept-Post; nil for none
}

// parse reads the head of a plain answer, which sinks send nearly always, and
// allocates nothing. What is unusual in any way is not plain, such as what does not
// begin with a whole head, and left to net/http: for what parse reads, the two agree.
func parse(b []byte) (a plainAnswer, ok bool) {
	const start = "HTTP/1.1 2"
	if len(b) < len(start)+3 || string(b[:len(start)]) != start || !isDigit(b[10]) || !isDigit(b[11]) || b[12] != ' ' && b[12] != '\r' {
		return a, false
	}
	a.status, a.length = 200+int(b[10]-'0')*10+int(b[11]-'0'), -1
	for first := true; ; first = false {
		n := bytes.IndexByte(b[a.size:], '\n')
		if n < 1 || b[a.size+n-1] != '\r' {
			return a, false
		}
		text := b[a.size : a.size+n-1]
		a.size += n + 1
		switch {
		case !isText(text):
			return a, false
		case first:
		case len(text) > 0:
			if !a.header(text) {
				return a, false
			}
		case a.status == http.StatusNoContent:
			ok = a.length <= 0
			a.length = 0
			return a, ok
		default:
			return a, a.length >= 0
		}
	}
}

// header takes one into account. It returns false when there is more to it.
func (a *plainAnswer) header(text []byte) bool {
	name, value, ok := bytes.Cut(text, []byte{':'})
	if !ok || !isName(name) {
		return false
	}
	value = bytes.Trim(value, " \t")
	switch {
	case is(name, "content-length"):
		if a.length >= 0 || len(value) == 0 || len(value) > 9 {
			return false
		}
		a.length = 0
		for _, c := range value {
			if !isDigit(c) {
				return false
			}
			a.length = a.length*10 + int(c-'0')
		}
	case is(name, "accept-post"):
		if a.accepts != nil || len(value) == 0 {
			return false
		}
		a.accepts = value
	case is(name, "connection"):
		return is(value, "keep-alive")
	case is(name, "transfer-encoding"), is(name, "trailer"), is(name, "upgrade"), is(name, "retry-after"):
		return false
	}
	return true
}

// is compares with a lower-case text.
func is(b []byte, lower string) bool {
	return len(b) == len(lower) && bytes.EqualFold(b, []byte(lower))
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isName(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !isDigit(c) && c != '-' {
			return false
		}
	}
	return len(b) > 0
}

func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c > '~' {
			return false
		}
	}
	return true
}
