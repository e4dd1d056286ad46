// Package httpd gives every service its two listeners: the public port with the
// service's own routes, and the operator port with metrics and profiles. Both
// serve health and readiness.
package httpd

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/trace"
)

// Config holds the settings that all services have.
type Config struct {
	Service string        // one word: taskapi, bridge, notifier, auditor
	Addr    string        // public listener, LISTEN_ADDR or :PORT
	OpsAddr string        // operator listener, OPS_ADDR
	Grace   time.Duration // how long requests in progress may take after a stop, SHUTDOWN_GRACE
	Quiet   time.Duration // requests are still taken after a stop until none has come for so long, SHUTDOWN_QUIET
	Pprof   bool          // /debug/pprof/ on the operator port, OPS_PPROF

	Trace *trace.Config // OTEL_*; nil for no traces

	// Connections bounds the public port, MAX_CONNECTIONS; 0 stands for 512.
	Connections int
}

// ConfigFromEnv reads the common settings; port is the service's public port
// and port+1000 its operator port.
func ConfigFromEnv(r *env.Reader, service string, port int) Config {
	cfg := Config{
		Service: service,
		Addr:    r.Addr("LISTEN_ADDR", ":"+strconv.Itoa(port)),
		OpsAddr: r.Addr("OPS_ADDR", ":"+strconv.Itoa(port+1000)),
		Grace:   r.Duration("SHUTDOWN_GRACE", 25*time.Second, 0, time.Hour),
		Quiet:   r.Duration("SHUTDOWN_QUIET", 0, 0, time.Hour),
		Pprof:   r.Bool("OPS_PPROF", false),
		Trace:   trace.ConfigFromEnv(r, service),

		Connections: r.Int("MAX_CONNECTIONS", defaultConnections, 1, 1_000_000),
	}
	// Serverless platforms set PORT and expect the program to listen there.
	if r.String("PORT", "") != "" {
		cfg.Addr = ":" + strconv.Itoa(r.Int("PORT", port, 1, 65535))
	}
	r.Enum("LOG_FORMAT", "auto", "auto", "json", "text")
	r.Enum("LOG_LEVEL", "info", "debug", "info", "warn", "error")
	if _, port, _ := net.SplitHostPort(cfg.Addr); port != "0" && cfg.Addr == cfg.OpsAddr {
		r.Fail("OPS_ADDR", "is the same as the public address %s; metrics need a port of their own", cfg.Addr)
	}
	return cfg
}

// Server holds two bound listeners and serves them until its context ends.
type Server struct {
	cfg      Config
	log      *slog.Logger
	public   net.Listener
	ops      net.Listener
	registry *prometheus.Registry
	tracer   *trace.Tracer
	drained  time.Time    // when the grace is over; written by Serve before it returns
	handler  http.Handler // set before Serve, or while unavailable; so are the checks
	live     []Check
	ready    []Check
	each     func() []Check // see ReadyEach; nil for none
	hosts    Hosts          // see PublicHosts
	stopping atomic.Bool
	late     late

	unavailable atomic.Pointer[error] // why there is nothing to serve yet
}

// Listen binds both ports and serves neither yet. The error for a taken port names it.
func Listen(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	public, err := listen(ctx, cfg.Addr, "LISTEN_ADDR")
	if err != nil {
		return nil, err
	}
	ops, err := listen(ctx, cfg.OpsAddr, "OPS_ADDR")
	if err != nil {
		return nil, errors.Join(err, public.Close())
	}
	public = newDoor(public, publicConnections(cfg.Connections, log), 0, log)
	ops = newDoor(ops, opsConnections, opsReserve, log)
	return &Server{cfg: cfg, log: log, public: public, ops: ops, registry: newRegistry(), tracer: trace.New(cfg.Trace, log), handler: http.NotFoundHandler(), late: newLate()}, nil
}

func listen(ctx context.Context, addr, variable string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %s is taken by another program; stop it or set %s", addr, variable)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the address, which the setting shows better
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", addr, variable, err)
	}
	return l, nil
}

// Addr is the public address with its real port.
func (s *Server) Addr() net.Addr { return s.public.Addr() }

// OpsAddr is the operator address with its real port.
func (s *Server) OpsAddr() net.Addr { return s.ops.Addr() }

// Registry is the service's metrics registry.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// Tracer makes the service's spans; nil when traces are off.
func (s *Server) Tracer() *trace.Tracer { return s.tracer }

// CloseTracer sends the last spans, within what is left of the grace. Call it when
// nothing makes spans any more, after Serve.
func (s *Server) CloseTracer() { s.tracer.Close(s.drained) }

// Handle sets what the public port serves besides /healthz and /readyz.
func (s *Server) Handle(h http.Handler) { s.handler = h }

// PublicHosts replaces the rule of a public port on loopback, which is else called
// localhost or by a loopback address. An empty, not nil, h takes every address.
func (s *Server) PublicHosts(h Hosts) { s.hosts = h }

// Live adds checks to /healthz: is the service making progress?
func (s *Server) Live(checks ...Check) { s.live = append(s.live, checks...) }

// Ready adds checks to /readyz: can the service take work?
func (s *Server) Ready(checks ...Check) { s.ready = append(s.ready, checks...) }

// ReadyEach adds checks to /readyz that change while the service runs: f returns
// those of the moment.
func (s *Server) ReadyEach(f func() []Check) { s.each = f }

// SetUnavailable is for a service that waits for its files: it is alive, not
// ready for this reason, and every public route answers 503 until
// SetUnavailable(nil).
func (s *Server) SetUnavailable(reason error) {
	if reason == nil {
		s.unavailable.Store(nil)
		return
	}
	s.unavailable.Store(&reason)
}

// servePublic reads the handler only while the server is available: until then
// the service may still set it.
func (s *Server) servePublic(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		s.late.note(w)
	}
	if s.unavailable.Load() == nil {
		s.handler.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	WriteProblem(w, Problem{Status: http.StatusServiceUnavailable, Detail: "the service cannot use its files yet; /readyz has the reason"})
}

// Close releases the ports of a server that was never served.
func (s *Server) Close() error {
	s.tracer.Close(time.Now())
	return errors.Join(s.public.Close(), s.ops.Close())
}

// Serve answers on both ports until ctx ends. Then it turns readiness off, waits
// until clients have gone elsewhere if Quiet says so, closes the listeners, waits for
// requests in progress and returns; all that takes Grace at most.
// The operator port closes last, so that a drain can be observed.
func (s *Server) Serve(ctx context.Context) error {
	s.log.Info("listening", "addr", s.public.Addr().String(), "ops_addr", s.ops.Addr().String())
	routes := s.publicRoutes()
	guarded := func(h http.Handler) http.Handler { return guardLoopback(s.public, s.hosts, h) }
	public := newFront(s.public, guarded(routes), server(guarded(boundBodies(newShares(bodyBytes, bodyCrowd), routes)), s.log))
	ops := server(guardLoopback(s.ops, nil, s.opsRoutes()), s.log)
	// An error of one listener ends the other; so does ctx.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return served("public", public.serve()) })
	group.Go(func() error { return served("operator", ops.Serve(s.ops)) })
	group.Go(func() error {
		<-ctx.Done()
		s.stopping.Store(true)
		s.drained = time.Now().Add(s.cfg.Grace)
		drain, cancel := context.WithDeadline(context.WithoutCancel(ctx), s.drained)
		defer cancel()
		if !s.late.awaitQuiet(s.cfg.Quiet, s.cfg.Grace/2) {
			s.log.Warn("requests still come; the port closes now, see SHUTDOWN_QUIET", "after", s.cfg.Grace/2)
		}
		err := shutdown(drain, "public", public.shutdown, public.close)
		return errors.Join(err, shutdown(drain, "operator", ops.Shutdown, ops.Close))
	})
	return group.Wait()
}

func served(which string, err error) error {
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the %s port: %w", which, err)
	}
	return nil
}

// shutdown closes the connections that are still busy when the grace is over, so
// that no handler outlives Serve's caller for long.
func shutdown(ctx context.Context, which string, wait func(context.Context) error, end func() error) error {
	if err := wait(ctx); err != nil {
		return errors.Join(fmt.Errorf("requests on the %s port did not finish within SHUTDOWN_GRACE: %w", which, err), end())
	}
	return nil
}

// server sets the limits that net/http leaves open: without them one slow client
// holds a connection for ever. The doors and the shares of body.go bound what all
// of them hold together.
func server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          errorLog(log),
		ConnState:         connState,
		ConnContext:       connContext,
	}
}

// errorLog takes what net/http says of single connections: clients cause it, so
// it is limited.
func errorLog(log *slog.Logger) *stdlog.Logger {
	return stdlog.New(&sparse{log: log, at: rate.Sometimes{Interval: time.Second}}, "", 0)
}

type sparse struct {
	log *slog.Logger
	at  rate.Sometimes
}

func (s *sparse) Write(line []byte) (int, error) {
	s.at.Do(func() { s.log.Debug("connection failed", "err", strings.TrimSpace(string(line))) })
	return len(line), nil
}

func (s *Server) publicRoutes() http.Handler {
	mux := http.NewServeMux()
	s.probes(mux)
	mux.HandleFunc("/", s.servePublic)
	return mux
}

func (s *Server) opsRoutes() http.Handler {
	mux := http.NewServeMux()
	s.probes(mux)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,                     // the older text form has no exemplars
		ErrorHandling:     promhttp.ContinueOnError, // a database that does not answer takes its own metrics away, not all of them
	}))
	s.logLevel(mux)
	if s.cfg.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}
