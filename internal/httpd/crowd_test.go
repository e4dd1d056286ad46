package httpd_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/httpd"
)

// serve runs a server with room for few connections and logs to log.
func serve(t *testing.T, connections int, log io.Writer, h http.HandlerFunc) *httpd.Server {
	t.Helper()
	cfg := httpd.Config{Service: "sample", Addr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", Grace: 10 * time.Second, Connections: connections}
	s, err := httpd.Listen(t.Context(), cfg, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.Handle(h)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return s
}

// open connects and sends the beginning of a request.
func open(t *testing.T, addr net.Addr, begin string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, begin); err != nil {
		t.Fatal(err)
	}
	return c
}

// newcomer asks over a connection of its own.
func newcomer(t *testing.T, url string) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// Each of these clients lets the service wait; together they have all connections.
func TestSlowClientsMakeRoomForOthers(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: localhost\r\n"
	for name, begin := range map[string]string{
		"silent":                   "",
		"an unfinished header":     "GET / HTTP/1.1\r\nHost: localhost\r\n",
		"an unfinished small body": post + "Content-Length: 100\r\n\r\nx",
		"an unfinished large body": post + "Content-Length: 100000\r\n\r\nx",
		"a body without length":    post + "Transfer-Encoding: chunked\r\n\r\n",
		"a body nobody reads":      "POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx",
		"idle":                     "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, 4, io.Discard, func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/refused" {
					_, _ = io.Copy(io.Discard, r.Body)
				}
			})
			for range 12 {
				open(t, s.Addr(), begin)
			}
			for range 3 {
				if status := newcomer(t, "http://"+s.Addr().String()+"/"); status != 200 {
					t.Errorf("status %d", status)
				}
			}
		})
	}
}

// A connection that the service works for is never closed to make room.
func TestWorkIsNotInterrupted(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 8), make(chan struct{})
	s := serve(t, 2, io.Discard, func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "done")
	})
	const get = "GET /work HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	working := []net.Conn{open(t, s.Addr(), get), open(t, s.Addr(), get)}
	<-entered
	<-entered
	late := open(t, s.Addr(), get)
	time.Sleep(600 * time.Millisecond) // longer than two turns
	close(release)
	for _, c := range append(working, late) {
		answer, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(answer), "done") {
			t.Errorf("answer %q: %v", answer, err)
		}
	}
}

// An answer that is not read gives its turn to others, and never looks complete.
func TestAnUnreadAnswerGivesItsTurnAway(t *testing.T) {
	t.Parallel()
	answers := httpd.NewAnswers(1)
	ended := make(chan error, 8)
	s := serve(t, 8, io.Discard, func(w http.ResponseWriter, r *http.Request) {
		answers.Stream(w, r, func(_ context.Context, out *bufio.Writer) (err error) {
			for i := 0; i < 64<<20 && err == nil && r.URL.Path == "/long"; i += 1 << 10 {
				_, err = out.Write(make([]byte, 1<<10))
			}
			ended <- err
			return err
		})
	})
	open(t, s.Addr(), "GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
	apptest.Await(t, "the turn of the one that does not read is over", func() bool {
		return newcomer(t, "http://"+s.Addr().String()+"/short") == 200
	})
	first := <-ended
	if first == nil {
		first = <-ended // the short answer was quicker
	}
	if first == nil {
		t.Error("64 MiB went to a client that reads nothing")
	}
}

// Out of file descriptors, the probes are answered and one line names the limit.
func TestOutOfFileDescriptors(t *testing.T) {
	var log apptest.Log
	s := serve(t, 64, &log, func(http.ResponseWriter, *http.Request) {})
	if status := newcomer(t, "http://"+s.OpsAddr().String()+"/healthz"); status != 200 { // everything is set up
		t.Fatal(status)
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 200
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}()
	var held []*os.File
	defer func() {
		for _, f := range held {
			_ = f.Close()
		}
	}()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		held = append(held, f)
	}
	// The client needs a descriptor too. The service may be quicker to take it.
	dial := func(addr net.Addr) net.Conn {
		for {
			c, err := net.Dial("tcp", addr.String())
			if err == nil {
				return c
			}
			if len(held) == 0 {
				t.Fatal(err)
			}
			_ = held[0].Close()
			held = held[1:]
		}
	}
	ask := func(c net.Conn) string {
		defer c.Close()
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return err.Error()
		}
		answer, err := io.ReadAll(c)
		if err != nil {
			return err.Error()
		}
		return string(answer)
	}
	public, waiting := dial(s.Addr()), make(chan string, 1)
	go func() { waiting <- ask(public) }()
	for range 3 {
		if answer := ask(dial(s.OpsAddr())); !strings.HasPrefix(answer, "HTTP/1.1 200 OK") {
			t.Errorf("healthz on the operator port: %q", answer)
		}
	}
	if n := log.Count("out of file descriptors"); n < 1 || n > 2 || log.Count(`"limit":200`) != n {
		t.Errorf("%d lines, want one for each port at most:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "\n"); n > 4 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	for _, f := range held {
		_ = f.Close()
	}
	held = nil
	if answer := <-waiting; !strings.HasPrefix(answer, "HTTP/1.1 200 OK") {
		t.Errorf("the connection that had to wait: %q", answer)
	}
}
