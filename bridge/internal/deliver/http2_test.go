package deliver_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/apptest"
)

// http2 starts a sink that offers HTTP/2 and fails the test when a post comes by
// another protocol.
func http2(t *testing.T, streams int, handler http.HandlerFunc) (url string, files deliver.TLSFiles) {
	t.Helper()
	ours := newAuthority(t, "ours")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("a post came by %s, want HTTP/2", r.Proto)
		}
		handler(w, r)
	}))
	s.TLS, s.EnableHTTP2 = ours.server("", later), true
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, deliver.TLSFiles{CA: file(t, t.TempDir(), "ca.pem", ours.pem)}
}

// TestMorePostsThanStreams: a sink that takes few at a time gets all the same.
func TestMorePostsThanStreams(t *testing.T) {
	const posts = 100
	var seen sync.Map
	url, files := http2(t, 3, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, twice := seen.LoadOrStore(string(body), true); twice {
			t.Errorf("%s was posted twice", body)
		}
	})
	c := client(t, url, files)
	var wg sync.WaitGroup
	for i := range posts {
		wg.Go(func() {
			if got := once(t, c, deliver.Post{Body: fmt.Append(nil, i)}); got.Outcome != deliver.Accepted {
				t.Errorf("post %d = %+v, want accepted", i, got)
			}
		})
	}
	wg.Wait()
}

// TestAStreamThatIsCut: an answer counts only when it is whole, as in HTTP/1.1.
func TestAStreamThatIsCut(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"before the answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"within the answer": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"after the status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"before its announced end": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		},
	} {
		url, files := http2(t, 0, handler)
		if got := once(t, client(t, url, files), deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Retry || got.Err == nil {
			t.Errorf("cut %s = %+v, want retry", name, got)
		}
	}
}

// TestASinkThatSaysGoAway after each answer gets the next post on a new connection.
func TestASinkThatSaysGoAway(t *testing.T) {
	var from sync.Map
	url, files := http2(t, 0, func(w http.ResponseWriter, r *http.Request) {
		from.Store(r.RemoteAddr, true)
		w.Header().Set("Connection", "close") // the server turns it into GOAWAY
	})
	c := client(t, url, files)
	for range 5 {
		if got := once(t, c, deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Accepted {
			t.Errorf("Attempt = %+v, want accepted", got)
		}
	}
	n := 0
	from.Range(func(any, any) bool { n++; return true })
	if n < 2 {
		t.Errorf("%d connections, want one after the other", n)
	}
}

// TestADeadHTTP2ConnectionIsLeft: a network that swallows everything on a
// connection says nothing about it. Posts that time out do not end the connection,
// so without pings all later ones would be lost on it, too.
func TestADeadHTTP2ConnectionIsLeft(t *testing.T) {
	url, files := http2(t, 0, accept)
	p := newSwallower(t, strings.TrimPrefix(url, "https://"))
	settings := files
	settings.ServerName = "127.0.0.1"
	c := client(t, "https://"+p.addr, settings)
	c.PingAfter(200 * time.Millisecond)
	if got := once(t, c, deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Accepted {
		t.Fatalf("Attempt = %+v, want accepted", got)
	}
	p.swallow()
	apptest.Await(t, "a post on a new connection", func() bool {
		return once(t, c, deliver.Post{Body: []byte("{}")}).Outcome == deliver.Accepted
	})
}

// swallower is a network in front of a sink.
type swallower struct {
	addr string
	dead atomic.Int64 // connections up to this one are
}

func newSwallower(t *testing.T, to string) *swallower {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &swallower{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	pass := func(nth int64, from, to net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if s.dead.Load() >= nth && err == nil {
				continue
			}
			if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
				_, _ = from.Close(), to.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for nth := int64(1); ; nth++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			wg.Go(func() { pass(nth, in, out) })
			wg.Go(func() { pass(nth, out, in) })
		}
	})
	return s
}

// swallow kills the first connection without a word.
func (s *swallower) swallow() { s.dead.Store(1) }
