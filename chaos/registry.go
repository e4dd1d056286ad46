package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/registrytest"
	"github.com/taskwire/taskwire/internal/retry"
)

// schemaRegistry is that of -encoding avro: in memory and in this process, or, with a
// real Kafka, a real one that keeps its schemas there. The programs reach either
// through this process, which counts the requests that fail.
type schemaRegistry struct {
	fake    *srfake.Registry
	real    *program
	ready   string       // address that the real one answers
	answers http.Handler // of either
	server  *http.Server
	serving sync.WaitGroup
	url     string
	down    atomic.Pointer[string] // how the fake fails; nil = it answers

	unread, unregistered atomic.Int64 // requests of bridges and of Task APIs that failed
}

func (y *system) startRegistry(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := &schemaRegistry{url: "http://" + l.Addr().String()}
	if y.Kafka == "real" {
		err = y.openReal(ctx, r)
	} else {
		r.fake = srfake.New()
		r.answers = r.fake.Handler()
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	r.server = &http.Server{Handler: r}
	r.serving.Go(func() { _ = r.server.Serve(l) }) // it ends by close
	y.registry = r
	return nil
}

func (y *system) openReal(ctx context.Context, r *schemaRegistry) error {
	cmd, at, err := registrytest.Command(ctx, registrytest.Options{Dir: y.Dir, Brokers: y.brokers, Progress: y.out})
	if err != nil {
		return err
	}
	to, err := url.Parse(at)
	if err != nil {
		return err
	}
	r.ready = at + "/subjects"
	r.real = &program{name: "registry", path: cmd.Path, args: cmd.Args[1:], dir: y.Dir, env: func(int) ([]string, error) { return cmd.Env, nil }}
	r.answers = &httputil.ReverseProxy{
		Transport: &http.Transport{DisableKeepAlives: true}, // it is killed
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to) },
		ErrorHandler: func(_ http.ResponseWriter, req *http.Request, _ error) {
			r.count(req)
			panic(http.ErrAbortHandler)
		},
	}
	if err := errors.Join(r.real.Up(), r.awaitReady(ctx)); err != nil {
		return errors.Join(err, r.real.Down(syscall.SIGKILL))
	}
	return nil
}

func (r *schemaRegistry) close() error {
	err := r.server.Close()
	r.serving.Wait()
	if r.real != nil {
		return errors.Join(err, r.real.Down(syscall.SIGKILL))
	}
	r.fake.Close()
	return err
}

func (r *schemaRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	how := r.down.Load()
	if how == nil {
		r.answers.ServeHTTP(w, req)
		return
	}
	defer r.count(req)
	switch *how {
	case "503":
		http.Error(w, "starting", http.StatusServiceUnavailable)
	case "404":
		http.NotFound(w, req)
	case "hang":
		<-req.Context().Done()
	default:
		panic(http.ErrAbortHandler)
	}
}

// count counts a request that failed, when it is over for whoever asked.
func (r *schemaRegistry) count(req *http.Request) {
	if strings.HasPrefix(req.UserAgent(), "taskwire-bridge") {
		r.unread.Add(1)
		return
	}
	r.unregistered.Add(1)
}

// outages are how it fails. The one in memory answers that it is starting, cuts
// connections, is silent, or answers as another server.
func (r *schemaRegistry) outages() []string {
	if r.real != nil {
		return []string{"killed", "stopped"}
	}
	return []string{"503", "cut", "hang", "404"}
}

func (r *schemaRegistry) fail(how string) error {
	switch how {
	case "killed":
		return r.real.Down(syscall.SIGKILL)
	case "stopped":
		return r.real.Signal(syscall.SIGSTOP)
	}
	r.down.Store(&how)
	return nil
}

// heal ends an outage; a real one that was killed takes its time to start.
func (r *schemaRegistry) heal() error {
	r.down.Store(nil)
	if r.real == nil {
		return nil
	}
	return errors.Join(r.real.Signal(syscall.SIGCONT), r.real.Up())
}

// awaitReady returns when it answers.
func (r *schemaRegistry) awaitReady(ctx context.Context) error {
	if r.real == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for child.Ready(ctx, r.ready) != nil {
		if retry.Pause(ctx, 100*time.Millisecond) != nil {
			return errors.New("the Schema Registry does not answer: see registry.log")
		}
	}
	return nil
}

// injectRegistry has the registry fail while processes start that then know none of its
// schemas: first all bridges, for which a Task API that has registered its schema goes on
// to write records in Avro; then a Task API. It lasts until one of them has asked in vain.
func injectRegistry(y *system, ctx context.Context) (fault, error) {
	turn, r := y.turns["registry"], y.registry
	y.turns["registry"]++
	how := r.outages()[(turn+int(y.Seed))%len(r.outages())]
	start, failed := slices.Clone(y.bridges[:y.bridgeCount()]), &r.unread
	if turn%2 == 1 {
		start, failed = []*program{y.program("taskapi")}, &r.unregistered
	}
	before, errs, names := failed.Load(), []error{r.fail(how)}, []string{}
	for _, p := range start {
		y.hit[p] = true
		errs, names = append(errs, p.Down(syscall.SIGKILL)), append(names, p.name)
	}
	for _, p := range start {
		errs = append(errs, p.Up())
	}
	return fault{target: fmt.Sprintf("registry %s, %s start", how, strings.Join(names, " and ")), last: y.between(500, 2500), heal: func() error {
		for range 450 { // a bridge must have taken the place of its own past, which the group waits for
			if failed.Load() > before || retry.Pause(ctx, 100*time.Millisecond) != nil {
				break
			}
		}
		_ = retry.Pause(ctx, time.Second) // for what they make of it
		return r.heal()
	}}, errors.Join(errs...)
}

// encoded are the settings of a program that writes or reads events.
func (y *system) encoded() []string {
	if y.registry == nil {
		return nil
	}
	return []string{"EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL=" + y.registry.url}
}
