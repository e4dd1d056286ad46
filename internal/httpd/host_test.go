package httpd_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/httpd"
)

// askAs is what a browser sends after the name of a page was made to resolve to
// this machine: the connection comes here, Host has the page's name.
func askAs(t *testing.T, addr net.Addr, path, host string) (code int, contentType string) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Content-Type")
}

func teapot(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }

func TestAListenerOnLoopbackTakesNoOtherName(t *testing.T) {
	s, _ := start(t, func(s *httpd.Server) { s.Handle(http.HandlerFunc(teapot)) })
	for host, good := range map[string]bool{
		"localhost": true, "localhost:8001": true, "LocalHost": true, "127.0.0.1": true, "127.8.7.6:80": true,
		"[::1]": true, "[::1]:8001": true, "[::ffff:127.0.0.1]:8001": true,
		"evil.example": false, "evil.example:8001": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false,
		"192.168.0.7": false, "169.254.169.254": false, "[fe80::1]": false, "0.0.0.0": false, "localhost.": false,
	} {
		want := map[string]int{"/tasks": 403, "/healthz": 403, "/metrics": 403}
		if good {
			want = map[string]int{"/tasks": 418, "/healthz": 200, "/metrics": 200}
		}
		got := map[string]int{}
		for path, addr := range map[string]net.Addr{"/tasks": s.Addr(), "/healthz": s.Addr(), "/metrics": s.OpsAddr()} {
			code, contentType := askAs(t, addr, path, host)
			if code == 403 && contentType != "application/problem+json" {
				t.Errorf("%s as %s is refused with %s, want a problem", path, host, contentType)
			}
			got[path] = code
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("as %s (-want +got):\n%s", host, diff)
		}
	}
}

// A service in a cluster is called by names that it cannot know.
func TestAListenerOnEveryInterfaceTakesEveryName(t *testing.T) {
	s, err := httpd.Listen(t.Context(), httpd.Config{Service: "sample", Addr: ":0", OpsAddr: ":0", Grace: time.Second}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	defer func() { cancel(); <-done; http.DefaultClient.CloseIdleConnections() }()
	for path, addr := range map[string]net.Addr{"/healthz": s.Addr(), "/metrics": s.OpsAddr()} {
		if code, _ := askAs(t, addr, path, "taskapi.taskwire.svc:8000"); code != 200 {
			t.Errorf("%s = %d, want 200", path, code)
		}
	}
}

func TestPublicHostsAreTakenOnLoopback(t *testing.T) {
	s, _ := start(t, func(s *httpd.Server) { s.PublicHosts(httpd.Hosts{"Bridge.example"}) })
	for host, want := range map[string]int{"bridge.example": 200, "192.168.0.7:8001": 200, "localhost": 200, "evil.example": 403} {
		if code, _ := askAs(t, s.Addr(), "/healthz", host); code != want {
			t.Errorf("public port as %s = %d, want %d", host, code, want)
		}
	}
	if code, _ := askAs(t, s.OpsAddr(), "/metrics", "bridge.example"); code != 403 {
		t.Errorf("operator port as bridge.example = %d, want 403", code)
	}
}
