package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/http1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a server that answers as its test says, a function for each connection.
type sink struct {
	t     *testing.T
	addr  string
	dials atomic.Int32
}

// listen serves connection number n (from 1) with serve.
func listen(t *testing.T, serve func(n int, conn net.Conn, requests *bufio.Reader)) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{t: t, addr: l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(n, conn, bufio.NewReader(conn))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return s
}

// request reads one request whole.
func request(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

func (s *sink) conn() *http1.Conn { return s.connFor(soon) }

func (s *sink) connFor(timeout time.Duration) *http1.Conn {
	return s.connOf(kinds["a socket"], timeout)
}

// kinds of connections: what is no socket itself cannot be looked into.
var kinds = map[string]func(net.Conn) net.Conn{
	"a socket":           func(nc net.Conn) net.Conn { return nc },
	"another connection": func(nc net.Conn) net.Conn { return struct{ net.Conn }{nc} },
}

func (s *sink) connOf(wrap func(net.Conn) net.Conn, timeout time.Duration) *http1.Conn {
	c := http1.New(s.t.Context(), timeout, func(ctx context.Context) (net.Conn, error) {
		s.dials.Add(1)
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
		if err != nil {
			return nil, err
		}
		return wrap(nc), nil
	})
	s.t.Cleanup(c.Close)
	return c
}

func head(body []byte) []byte {
	return fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: sink\r\nContent-Length: %d\r\n\r\n", len(body))
}

// post returns status and body of the answer.
func post(c *http1.Conn, content string) (int, string, error) {
	resp, err := c.Post(head([]byte(content)), []byte(content))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, string(b), err
}

const (
	noContent = "HTTP/1.1 204 No Content\r\n\r\n"
	soon      = 5 * time.Second
)

func TestAConnectionIsKept(t *testing.T) {
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, strings.Repeat("x", 1000))
	}))
	defer server.Close()
	s := &sink{t: t, addr: server.Listener.Addr().String()}
	c := s.conn()
	defer c.Close()
	long := strings.Repeat("y", 1<<20)
	for _, content := range []string{"a", "", long, "b"} {
		status, answer, err := post(c, content)
		if status != 201 || len(answer) != 1000 || err != nil {
			t.Fatalf("post of %d bytes = %d, %d bytes, %v", len(content), status, len(answer), err)
		}
	}
	if s.dials.Load() != 1 || strings.Join(bodies, "") != "a"+long+"b" {
		t.Errorf("%d connections, %d bytes received", s.dials.Load(), len(strings.Join(bodies, "")))
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		status int // 0: an error
		body   string
		kept   bool
	}{
		"no content":          {noContent, 204, "", true},
		"length":              {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", true},
		"chunks":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n", 200, "yes", true},
		"interim":             {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + noContent, 204, "", true},
		"until the end":       {"HTTP/1.1 200 OK\r\n\r\nyes", 200, "yes", false},
		"one byte at a time":  {"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", true},
		"keep-alive":          {"HTTP/1.1 201 Created\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", 201, "", true},
		"long body":           {"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("y", 60000), 200, strings.Repeat("y", 60000), true},
		"more than its body":  {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes!", 200, "yes", false},
		"length, no content":  {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nyes", 204, "", false},
		"close":               {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", false},
		"HTTP/1.0":            {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", false},
		"cut head":            {"HTTP/1.1 200 OK\r\nContent-Le", 0, "", false},
		"cut body":            {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nyes", 0, "", false},
		"cut chunk":           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nye", 0, "", false},
		"no last chunk":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n", 0, "", false},
		"not HTTP":            {"SSH-2.0-OpenSSH_9.2\r\n", 0, "", false},
		"another protocol":    {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101, "", false},
		"only interim":        {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + noContent, 0, "", false},
		"endless head":        {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n", 1<<14), 0, "", false},
		"two lengths":         {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nyes", 0, "", false},
		"nothing":             {"", 0, "", false},
		"two answers at once": {noContent + noContent, 204, "", false},
	} {
		for kind, wrap := range kinds {
			t.Run(name+" over "+kind, func(t *testing.T) {
				s := listen(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
					for request(requests) {
						if _, err := io.WriteString(conn, c.answer); err != nil || !c.kept {
							return
						}
					}
				})
				conn := s.connOf(wrap, soon)
				for range 2 {
					status, body, err := post(conn, "event")
					if (c.status == 0) != (err != nil) || err == nil && (status != c.status || body != c.body) {
						t.Fatalf("post = %d, %q, %v; want %d, %q", status, body, err, c.status, c.body)
					}
				}
				if want := map[bool]int32{true: 1, false: 2}[c.kept]; s.dials.Load() != want {
					t.Errorf("%d connections for two posts, want %d", s.dials.Load(), want)
				}
			})
		}
	}
}

// A sink may close a kept connection at any time; the post that finds it dead
// goes out on another one, once.
func TestADeadConnectionIsReplaced(t *testing.T) {
	for name, refuse := range map[string]bool{"once": false, "and the next one": true} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, func(n int, conn net.Conn, requests *bufio.Reader) {
				if n > 1 && refuse {
					return
				}
				request(requests)
				_, _ = io.WriteString(conn, noContent)
				if n == 1 {
					request(requests) // and closes without an answer
					return
				}
				request(requests)
			})
			c := s.conn()
			defer c.Close()
			if status, _, err := post(c, "1"); status != 204 {
				t.Fatal(status, err)
			}
			status, _, err := post(c, "2")
			if refuse != (err != nil) || !refuse && status != 204 || s.dials.Load() != 2 {
				t.Errorf("post = %d, %v over %d connections", status, err, s.dials.Load())
			}
			if err != nil && strings.Contains(err.Error(), "before an answer") {
				t.Errorf("err = %v, which is about this package", err)
			}
		})
	}
}

// An answer that began belongs to a request that the sink has taken: no second post.
func TestACutAnswerIsNotRepeated(t *testing.T) {
	s := listen(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
		request(requests)
		_, _ = io.WriteString(conn, noContent)
		request(requests)
		_, _ = io.WriteString(conn, "H")
	})
	c := s.conn()
	defer c.Close()
	if _, _, err := post(c, "1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := post(c, "2"); err == nil || s.dials.Load() != 1 {
		t.Errorf("err = %v over %d connections, want an error over one", err, s.dials.Load())
	}
}

// A second answer to one post must not acknowledge the next one.
func TestAnUnaskedAnswerIsNotUsed(t *testing.T) {
	answered := make(chan struct{})
	s := listen(t, func(n int, conn net.Conn, requests *bufio.Reader) {
		request(requests)
		if n > 1 {
			_, _ = io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, noContent)
		<-answered // so that the connection has not read both at once
		_, _ = io.WriteString(conn, noContent)
		request(requests)
	})
	var kept net.Conn
	c := http1.New(t.Context(), soon, func(ctx context.Context) (_ net.Conn, err error) {
		kept, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
		return kept, err
	})
	defer c.Close()
	if status, _, err := post(c, "1"); status != 204 {
		t.Fatal(status, err)
	}
	close(answered)
	for http1.Quiet(kept) {
		runtime.Gosched()
	}
	if status, _, err := post(c, "2"); status != 503 {
		t.Errorf("the second post = %d, %v; want 503, the answer to it", status, err)
	}
}

func TestASinkThatAnswersBeforeItHasReadAll(t *testing.T) {
	hold := make(chan struct{})
	s := listen(t, func(_ int, conn net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		<-hold
	})
	defer close(hold)
	c := s.connFor(30 * time.Second)
	began := time.Now()
	status, body, err := post(c, strings.Repeat("x", 64<<20))
	if status != 413 || body != "no" || err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("post = %d, %q, %v after %v", status, body, err, time.Since(began))
	}
	c.Close()
}

func TestDeadlines(t *testing.T) {
	hold := make(chan struct{})
	for name, answer := range map[string]string{"silence": "", "half a head": "HTTP/1.1 200", "half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nyes"} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
				request(requests)
				_, _ = io.WriteString(conn, answer)
				request(requests) // until the connection ends
			})
			c := s.connFor(50 * time.Millisecond)
			if _, _, err := post(c, "1"); !errors.Is(err, os.ErrDeadlineExceeded) || s.dials.Load() != 1 {
				t.Errorf("err = %v over %d connections, want the deadline's over one", err, s.dials.Load())
			}
		})
	}
	close(hold)
}

// The end of the context interrupts a post at once, and none begins after it.
func TestTheContextInterrupts(t *testing.T) {
	arrived := make(chan struct{})
	s := listen(t, func(_ int, _ net.Conn, requests *bufio.Reader) {
		request(requests)
		close(arrived)
		request(requests)
	})
	ctx, cancel := context.WithCancel(t.Context())
	c := http1.New(ctx, time.Hour, func(ctx context.Context) (net.Conn, error) {
		s.dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	})
	defer c.Close()
	go func() { <-arrived; cancel() }()
	if _, _, err := post(c, "1"); err == nil {
		t.Error("an interrupted post succeeded")
	}
	if _, _, err := post(c, "2"); !errors.Is(err, context.Canceled) || s.dials.Load() != 1 {
		t.Errorf("after the end: %v over %d connections", err, s.dials.Load())
	}
}

// A body that is not read to its end costs the connection, not the next answer.
func TestAnUnreadAnswer(t *testing.T) {
	s := listen(t, func(n int, conn net.Conn, requests *bufio.Reader) {
		request(requests)
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 20%d OK\r\nContent-Length: 100000\r\n\r\n%s", n, bytes.Repeat([]byte("x"), 100000))
		request(requests)
	})
	c := s.conn()
	defer c.Close()
	for want := 201; want < 203; want++ {
		if status, _, err := post(c, "1"); status != want || err != nil {
			t.Errorf("post = %d, %v, want %d", status, err, want)
		}
	}
}

// A request that the socket does not take at once is sent whole all the same.
func TestAFullSocket(t *testing.T) {
	var got []byte
	s := listen(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
		for range 2 {
			req, err := http.ReadRequest(requests)
			if err != nil {
				return
			}
			got, _ = io.ReadAll(req.Body)
			_, _ = io.WriteString(conn, noContent)
		}
	})
	c := s.connOf(func(nc net.Conn) net.Conn {
		if err := nc.(*net.TCPConn).SetWriteBuffer(1); err != nil {
			t.Error(err)
		}
		return nc
	}, soon)
	content := strings.Repeat("0123456789", 3000)
	for range 2 {
		if status, _, err := post(c, content); status != 204 || string(got) != content {
			t.Fatalf("post = %d, %v; %d of %d bytes arrived", status, err, len(got), len(content))
		}
	}
}

// A deadline serves many posts, but none for longer than a 64th of its time.
func TestEachPostHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 640 * time.Millisecond
		ours, theirs := net.Pipe()
		go func() {
			requests := bufio.NewReader(theirs)
			for n := 0; request(requests); n++ {
				if n < 40 {
					time.Sleep(time.Duration(n) * 3 * time.Millisecond) // some longer than the deadline has left for the next one
					_, _ = io.WriteString(theirs, noContent)
				}
			}
		}()
		c := http1.New(t.Context(), timeout, func(context.Context) (net.Conn, error) { return ours, nil })
		defer c.Close()
		for range 40 {
			if status, _, err := post(c, "1"); status != 204 {
				t.Fatal(status, err)
			}
		}
		began := time.Now()
		_, _, err := post(c, "2")
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < timeout || took > timeout*65/64 {
			t.Errorf("err = %v after %v, want the deadline's after %v", err, took, timeout)
		}
	})
}

func TestAPostAllocatesNothing(t *testing.T) {
	s := listen(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
		var b [4096]byte
		answer := []byte("HTTP/1.1 201 Created\r\nDate: Mon, 30 Nov 2026 00:00:00 GMT\r\nAccept-Post: a/b, c/d\r\nContent-Length: 2\r\n\r\nok")
		for {
			if _, err := requests.Read(b[:]); err != nil {
				return
			}
			_, _ = conn.Write(answer)
		}
	})
	c := s.conn()
	content := bytes.Repeat([]byte("x"), 400)
	h := head(content)
	var scratch [64]byte
	allocs := testing.AllocsPerRun(1000, func() {
		resp, err := c.Post(h, content)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(scratch[:])
		}
		_ = resp.Body.Close()
		if got := resp.Header["Accept-Post"]; len(got) != 1 || got[0] != "a/b, c/d" {
			t.Fatalf("Accept-Post = %q", got)
		}
	})
	if allocs > 0 {
		t.Errorf("%.1f allocations a post, want none", allocs)
	}
}

// Whatever parse takes for a plain answer net/http reads in the same way.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		noContent, "HTTP/1.1 204 No Content\r\nAccept-Post: application/json \r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", "HTTP/1.1 201\r\ncontent-length:0 \r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nDate: Mon, 30 Nov 2026 00:00:00 GMT\r\n\r\nHTTP/1.1 204", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 3\n\nyes",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		status, length, size, accepts, ok := http1.Parse(b)
		if !ok {
			return
		}
		rest := bufio.NewReader(bytes.NewReader(b))
		resp, err := http.ReadResponse(rest, &http.Request{Method: http.MethodPost})
		if err != nil {
			t.Fatalf("net/http refuses it: %v", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != status || resp.Close || len(resp.TransferEncoding) > 0 || len(b)-rest.Buffered() != size && len(b) <= 4096 {
			t.Errorf("parsed status %d in %d bytes; net/http %d, close %v, encoding %q, in %d bytes", status, size, resp.StatusCode, resp.Close, resp.TransferEncoding, len(b)-rest.Buffered())
		}
		if values := resp.Header["Accept-Post"]; len(values) > 1 || resp.Header.Get("Accept-Post") != accepts {
			t.Errorf("parsed Accept-Post %q; net/http %q", accepts, values)
		}
		body, err := io.ReadAll(resp.Body)
		if want := min(length, len(b)-size); len(body) != want || (err == nil) != (len(body) == length) {
			t.Errorf("%d bytes of body, %v; parsed %d of %d that follow", len(body), err, length, len(b)-size)
		}
	})
}

func BenchmarkPost(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	addr := server.Listener.Addr().String()
	content := bytes.Repeat([]byte("x"), 400)
	b.Run("conn", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			c := http1.New(b.Context(), soon, func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) })
			defer c.Close()
			h := head(content)
			for pb.Next() {
				resp, err := c.Post(h, content)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	})
	b.Run("transport", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		transport := &http.Transport{MaxIdleConnsPerHost: 1000}
		defer transport.CloseIdleConnections()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				req, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL, bytes.NewReader(content))
				resp, err := transport.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	})
}
