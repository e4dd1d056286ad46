package httpd_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves cfg on free ports; stop ends it and returns what Serve returned.
func start(t *testing.T, set func(*httpd.Server)) (s *httpd.Server, stop func() error) {
	t.Helper()
	cfg := httpd.Config{Service: "sample", Addr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", Grace: 10 * time.Second}
	s, err := httpd.Listen(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	set(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once bool
	stop = func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = stop(); http.DefaultClient.CloseIdleConnections() })
	return s, stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestProbesAnswerOnBothPortsAndNameWhatIsMissing(t *testing.T) {
	s, _ := start(t, func(s *httpd.Server) {
		s.Ready(httpd.Check{Name: "kafka", Func: func() error { return errors.New("no broker answers") }})
	})
	for _, addr := range []string{s.Addr().String(), s.OpsAddr().String()} {
		if code, body := get(t, "http://"+addr+"/healthz"); code != 200 || body != "ok\n" {
			t.Errorf("healthz = %d %q", code, body)
		}
		if code, body := get(t, "http://"+addr+"/readyz"); code != 503 || body != "kafka: no broker answers\n" {
			t.Errorf("readyz = %d %q", code, body)
		}
	}
}

// A server that waits is alive, so nobody restarts it; its handler may be set
// while it answers.
func TestAnUnavailableServerNamesTheReasonAndAcceptsNothing(t *testing.T) {
	s, _ := start(t, func(s *httpd.Server) {
		s.SetUnavailable(errors.New("audit log: read-only file system"))
	})
	base := "http://" + s.Addr().String()
	if code, body := get(t, base+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz = %d %q", code, body)
	}
	for _, addr := range []string{s.Addr().String(), s.OpsAddr().String()} {
		if code, body := get(t, "http://"+addr+"/readyz"); code != 503 || body != "audit log: read-only file system\n" {
			t.Errorf("readyz = %d %q", code, body)
		}
	}
	resp, err := http.Post(base+"/tasks", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := []string{resp.Status, resp.Header.Get("Retry-After"), resp.Header.Get("Content-Type")}
	if diff := cmp.Diff([]string{"503 Service Unavailable", "1", "application/problem+json"}, got); diff != "" {
		t.Errorf("post (-want +got):\n%s", diff)
	}
	s.Handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	s.Live(httpd.Check{Name: "ledger", Func: func() error { return errors.New("gone") }})
	s.SetUnavailable(nil)
	for path, want := range map[string]int{"/tasks": http.StatusTeapot, "/readyz": 200, "/healthz": 503} {
		if code, body := get(t, base+path); code != want {
			t.Errorf("%s after SetUnavailable(nil) = %d %q, want %d", path, code, body, want)
		}
	}
}

func TestMetricsAreOnTheOperatorPortOnly(t *testing.T) {
	s, _ := start(t, func(*httpd.Server) {})
	info := `taskwire_build_info{goversion="` + runtime.Version() + `",revision="`
	if code, body := get(t, "http://"+s.OpsAddr().String()+"/metrics"); code != 200 || !strings.Contains(body, info) {
		t.Errorf("metrics on the operator port = %d without %s", code, info)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		if code, _ := get(t, "http://"+s.Addr().String()+path); code != 404 {
			t.Errorf("%s on the public port = %d, want 404", path, code)
		}
	}
	if code, _ := get(t, "http://"+s.OpsAddr().String()+"/debug/pprof/"); code != 404 {
		t.Errorf("pprof without OPS_PPROF = %d, want 404", code)
	}
}

func TestARequestInProgressIsAnsweredAfterTheStop(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s, stop := start(t, func(s *httpd.Server) {
		s.Handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			_, _ = io.WriteString(w, "done")
		}))
	})
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + s.Addr().String() + "/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("Serve returned %v with a request in progress", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("answer = %q, want done", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	s, _ := start(t, func(*httpd.Server) {})
	_, err := httpd.Listen(t.Context(), httpd.Config{Addr: s.Addr().String(), OpsAddr: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "is taken by another program") {
		t.Errorf("Listen = %v, want an error that names the port", err)
	}
}

func TestAnAddressThatCannotBeBoundIsNamedOnce(t *testing.T) {
	const reserved = "192.0.2.1:1" // no machine has this address
	_, err := httpd.Listen(t.Context(), httpd.Config{Addr: reserved, OpsAddr: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.HasPrefix(err.Error(), "listen on "+reserved+" (LISTEN_ADDR): ") || strings.Count(err.Error(), reserved) != 1 {
		t.Errorf("Listen = %v, want the address and its setting, once", err)
	}
}

func TestSettings(t *testing.T) {
	r := env.NewReader(env.Map(map[string]string{"PORT": "8080", "LISTEN_ADDR": ":1234"}))
	want := httpd.Config{Service: "notifier", Addr: ":8080", OpsAddr: ":9002", Grace: 25 * time.Second, Connections: 512}
	if diff := cmp.Diff(want, httpd.ConfigFromEnv(r, "notifier", 8002)); diff != "" || r.Err() != nil {
		t.Errorf("ConfigFromEnv (-want +got): %v\n%s", r.Err(), diff)
	}
	r = env.NewReader(env.Map(map[string]string{"OPS_ADDR": ":8002", "LOG_LEVEL": "loud"}))
	httpd.ConfigFromEnv(r, "notifier", 8002)
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "OPS_ADDR: ") || !strings.Contains(err.Error(), "LOG_LEVEL: ") {
		t.Errorf("mistakes = %v, want both", err)
	}
}

// What net/http refuses before a handler runs is plain text, or nothing at all:
// the library writes it to the connection itself, and no setting changes that.
// Everything that reaches the handler is the service's own to answer.
func TestWhatIsRefusedBeforeAnyHandler(t *testing.T) {
	s, _ := start(t, func(s *httpd.Server) {
		s.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // its error is the service's to answer
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusTeapot})
		}))
	})
	type answer struct {
		Status int
		Type   string
	}
	const host = "Host: localhost\r\n"
	for name, c := range map[string]struct {
		request string
		want    answer
	}{
		"large header":      {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", answer{431, "text/plain; charset=utf-8"}},
		"unknown coding":    {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n", answer{501, "text/plain; charset=utf-8"}},
		"no host":           {"GET / HTTP/1.1\r\n\r\n", answer{400, "text/plain; charset=utf-8"}},
		"two hosts":         {"GET / HTTP/1.1\r\n" + host + host + "\r\n", answer{400, "text/plain; charset=utf-8"}},
		"broken header":     {"GET / HTTP/1.1\r\n" + host + "a b: c\r\n\r\n", answer{400, "text/plain; charset=utf-8"}},
		"broken path":       {"GET /%zz HTTP/1.1\r\n" + host + "\r\n", answer{400, "text/plain; charset=utf-8"}},
		"broken length":     {"POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", answer{400, "text/plain; charset=utf-8"}},
		"not HTTP":          {"hello\r\n\r\n", answer{400, "text/plain; charset=utf-8"}},
		"another version":   {"GET / HTTP/3.0\r\n" + host + "\r\n", answer{505, "text/plain; charset=utf-8"}},
		"other expectation": {"POST / HTTP/1.1\r\n" + host + "Expect: cake\r\n\r\n", answer{417, ""}},
		"broken chunk":      {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", answer{418, "application/problem+json"}},
		"unknown method":    {"BREW / HTTP/1.1\r\n" + host + "\r\n", answer{418, "application/problem+json"}},
		"method of a probe": {"POST /healthz HTTP/1.1\r\n" + host + "\r\n", answer{418, "application/problem+json"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if diff := cmp.Diff(c.want, answer{resp.StatusCode, resp.Header.Get("Content-Type")}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A stop may come before a server has begun to accept.
func TestStoppedAtOnce(t *testing.T) {
	for range 200 {
		_, stop := start(t, func(*httpd.Server) {})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}
