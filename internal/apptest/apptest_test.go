package apptest_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/process"
)

func TestMain(m *testing.M) {
	if os.Getenv("APPTEST_PROCESS") != "" {
		process.Main("sample", "", fromEnv, open)
	}
	goleak.VerifyTestMain(m)
}

var errFault = errors.New("fault")

// sample is a service that ends by itself when a fault is sent.
type sample struct {
	*httpd.Server
	fault chan error
}

func fromEnv(lookup env.Lookup) (httpd.Config, error) {
	r := env.NewReader(lookup)
	cfg := httpd.ConfigFromEnv(r, "sample", 8000)
	return cfg, r.Err()
}

func open(ctx context.Context, cfg httpd.Config, log *slog.Logger) (*sample, error) {
	server, err := httpd.Listen(ctx, cfg, log)
	return &sample{server, make(chan error, 1)}, err
}

func start(t testing.TB) (a *apptest.App, s *sample) {
	a = apptest.Start(t, "sample", fromEnv, func(ctx context.Context, cfg httpd.Config, log *slog.Logger) (_ *sample, err error) {
		s, err = open(ctx, cfg, log)
		return s, err
	}, nil)
	return a, s
}

func (s *sample) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	select {
	case err := <-s.fault:
		cancel(err)
		return errors.Join(err, <-served)
	case err := <-served:
		return err
	}
}

func TestStopReturnsWhatRunReturned(t *testing.T) {
	a, service := start(t)
	if status, body := a.Get(t, a.URL+"/readyz"); status != 200 {
		t.Errorf("GET /readyz = %d %s, want 200", status, body)
	}
	service.fault <- errFault
	for _, end := range []func() error{a.Wait, a.Stop, a.Stop} {
		if err := end(); !errors.Is(err, errFault) {
			t.Errorf("Run = %v, want %v", err, errFault)
		}
	}
	if n := a.Log.Count(`"service":"sample"`); n == 0 {
		t.Errorf("log = %q, want lines of the service", a.Log.String())
	}
}

// recorder is a test that notes its failure and its cleanups.
type recorder struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Failed() bool          { return r.failed }
func (r *recorder) Logf(string, ...any)   {}

func TestAnErrorOfRunFailsTheTest(t *testing.T) {
	for _, fault := range []bool{false, true} {
		r := &recorder{TB: t}
		_, service := start(r)
		if fault {
			service.fault <- errFault
		}
		for _, cleanup := range r.cleanups {
			cleanup()
		}
		if r.failed != fault {
			t.Errorf("fault %v: test failed = %v, want %v", fault, r.failed, fault)
		}
	}
}

func TestProcess(t *testing.T) {
	p := apptest.Self(t, "APPTEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "LOG_FORMAT=json")
	base, ops := p.URLs(t)
	for _, url := range []string{base, ops} {
		if _, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(url, "http://")); err != nil {
			t.Errorf("URLs = %q, %q: %v", base, ops, err)
		}
	}
	if status := p.Terminate(); status != 0 || p.Count(`"stopped"`) != 1 {
		t.Errorf("exit status after SIGTERM = %d, want 0 and a line \"stopped\":\n%s", status, p.Log())
	}
	killed := apptest.Self(t, "APPTEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "LOG_FORMAT=json")
	killed.Signal(os.Kill)
	if status := killed.Exit(); status != -1 {
		t.Errorf("exit status after SIGKILL = %d, want -1", status)
	}
}
