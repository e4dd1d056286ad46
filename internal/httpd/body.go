package httpd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// smallBody needs no share: the number of connections bounds those.
	smallBody = 16 << 10
	// bodyBytes bounds the larger bodies of all requests together, and bodyShare is
	// the share of one whose length is unknown: no service takes more.
	bodyBytes = 16 << 20
	bodyShare = 1 << 20
	// bodyCrowd is how many large bodies may wait for a share.
	bodyCrowd = 32
	// patience is how long a share, or the next bytes, may take to come. When more
	// than half of all shares is out, a client has to be quick, and within a turn
	// when others wait.
	patience      = 5 * time.Second
	shortPatience = time.Second
	// answerTime bounds work and answer of a request with a large body.
	answerTime = 15 * time.Second
	// requestTime bounds header and body together.
	requestTime = 30 * time.Second
)

// shares is something that requests hold parts of: bytes, or turns. A request
// takes its share before it holds the memory and keeps it until it is answered.
type shares struct {
	all     int64
	crowd   int64 // more requests than this do not wait
	sem     *semaphore.Weighted
	taken   atomic.Int64
	waiting atomic.Int64
}

func newShares(all, crowd int64) *shares {
	return &shares{all: all, crowd: crowd, sem: semaphore.NewWeighted(all)}
}

// take waits up to patience. It reports false when nothing became free, and at
// once when a crowd waits: those would only keep connections from others.
func (s *shares) take(ctx context.Context, n int64) bool {
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.crowd {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.sem.Acquire(ctx, n) != nil {
		return false
	}
	s.taken.Add(n)
	return true
}

func (s *shares) give(n int64) {
	s.taken.Add(-n)
	s.sem.Release(n)
}

// patience is how long a client with a share may let the others wait.
func (s *shares) patience() time.Duration {
	switch {
	case s.waiting.Load() > 0:
		return turn
	case s.taken.Load() > s.all/2:
		return shortPatience
	}
	return patience
}

// boundBodies gives each request with a large body its share, or answers 503.
func boundBodies(s *shares, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		body := &body{ReadCloser: r.Body, conn: connOf(r.Context()), ctl: http.NewResponseController(w)}
		r.Body = body
		defer body.leave()
		if r.ContentLength > 0 && r.ContentLength <= smallBody {
			next.ServeHTTP(w, r)
			return
		}
		n := int64(bodyShare)
		if r.ContentLength > 0 {
			n = min(n, r.ContentLength)
		}
		if !s.take(r.Context(), n) {
			Busy(w)
			return
		}
		defer s.give(n)
		body.shares, body.end = s, time.Now().Add(requestTime)
		next.ServeHTTP(w, r)
	})
}

// Busy answers 503: too many requests or answers are in progress.
func Busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close") // the body, if any, is not read
	WriteProblem(w, Problem{Status: http.StatusServiceUnavailable, Detail: "too many large requests or answers are in progress; send it again"})
}

// body notes when the service waits for its client, and limits each wait when
// the client holds a share.
type body struct {
	io.ReadCloser
	conn   *conn
	shares *shares // nil for a small body
	ctl    *http.ResponseController
	end    time.Time
	fresh  int // bytes that may come before the next deadline is set
	ended  bool
}

// leave is for a body that was not read to its end. After the answer, net/http
// reads on for a while, so that the client finds the answer.
func (b *body) leave() {
	if b.ended {
		return
	}
	_ = b.ctl.SetReadDeadline(time.Now().Add(shortPatience))
	if b.conn != nil {
		b.conn.wait()
	}
}

func (b *body) Read(p []byte) (n int, err error) {
	if b.conn != nil {
		b.conn.wait()
		defer b.conn.work()
	}
	defer func() { b.ended = b.ended || errors.Is(err, io.EOF) }()
	if b.shares == nil {
		return b.ReadCloser.Read(p)
	}
	if b.fresh <= 0 {
		b.fresh = smallBody
		until := time.Now().Add(b.shares.patience())
		if until.After(b.end) {
			until = b.end
		}
		_ = b.ctl.SetReadDeadline(until) // without one the server's own limit holds
	}
	n, err = b.ReadCloser.Read(p)
	b.fresh -= n
	if err != nil {
		// A deadline that passes later would end the request's context.
		_ = b.ctl.SetReadDeadline(b.end)
		// The share is held until the answer is read.
		_ = b.ctl.SetWriteDeadline(time.Now().Add(answerTime))
	}
	return n, err
}
