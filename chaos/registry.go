package main

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/registrytest"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/schemas"
)

// schemaRegistry is that of -encoding avro: in memory and in this process, or, with a
// real Kafka, a real one that keeps its schemas there. The programs reach either
// through this process, which counts the requests that fail.
type schemaRegistry struct {
	fake    *srfake.Registry
	real    *program
	ready   string       // address that the real one answers
	direct  *sr.Client   // of either, which no outage cuts off
	answers http.Handler // of either
	server  *http.Server
	serving sync.WaitGroup
	url     string
	down    atomic.Pointer[string] // how the fake fails; nil = it answers

	unread, unregistered atomic.Int64 // requests of bridges and of Task APIs that failed
	lost                 atomic.Int64 // times that the schema was lost and registered again
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
		r.direct, err = sr.NewClient(sr.URLs(r.fake.URL()))
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
	if r.direct, err = sr.NewClient(sr.URLs(at)); err != nil {
		return err
	}
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

// lookalike is a schema that the data of a task event fits: what is read with it is wrong.
var lookalike = strings.Replace(schemas.TaskEvent, `"name": "title"`, `"name": "summary"`, 1)

// injectSchemas has the registry lose its data, while all bridges start that then know
// no schema. The one in memory gives the id at once to another schema; of a real one the
// subject is deleted for good. It lasts until a Task API has registered its schema again,
// which is then known under another id.
func injectSchemas(y *system, ctx context.Context) (fault, error) {
	ctx = context.WithoutCancel(ctx) // the end of the faults is no reason to leave it half done
	r := y.registry
	if y.Kafka == "embedded" {
		// It gives no session timeout to a member that is killed while it joins, as a
		// bridge does for 10 s that the fault registry has killed: its partitions would
		// have no reader until the rebalance timeout.
		_ = retry.Pause(ctx, 12*time.Second)
	}
	start, errs := slices.Clone(y.bridges[:y.bridgeCount()]), []error{}
	for _, p := range start {
		y.hit[p] = true
		errs = append(errs, p.Down(syscall.SIGKILL))
	}
	before, err := r.lose(ctx)
	errs = append(errs, err)
	for _, p := range start {
		errs = append(errs, p.Up())
	}
	return fault{target: "registry without its data, all bridges start", last: y.between(500, 2500), heal: func() error {
		for range 70 {
			if now, err := r.taskEvent(ctx); err == nil && now != before {
				r.lost.Add(1)
				return nil
			}
			_ = retry.Pause(ctx, 100*time.Millisecond)
		}
		return r.register(ctx) // all Task APIs are down, and bridges wait for a minute
	}}, errors.Join(errs...)
}

// register does what a Task API does, and may be done by an operator.
func (r *schemaRegistry) register(ctx context.Context) error {
	if err := r.awaitReady(ctx); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, []byte(schemas.TaskEvent)); err != nil {
		return err
	}
	_, err := r.direct.RegisterSchema(ctx, eventSubject, sr.Schema{Schema: text.String()}, -1, -1)
	return err
}

// lose deletes the subject for good and gives its id, where that is possible, to
// another schema. It returns the id.
func (r *schemaRegistry) lose(ctx context.Context) (id int, err error) {
	if err := r.awaitReady(ctx); err != nil { // another fault may have killed it
		return 0, err
	}
	if id, err = r.taskEvent(ctx); err != nil {
		return 0, err
	}
	if r.real == nil {
		starting := "503"
		before := r.down.Swap(&starting) // nobody takes the id in between
		r.fake.Reset()
		r.fake.SeedSchema("other-value", 1, id, sr.Schema{Schema: lookalike})
		r.down.Store(before)
		return id, nil
	}
	for _, how := range []sr.DeleteHow{sr.SoftDelete, sr.HardDelete} {
		if _, err := r.direct.DeleteSubject(ctx, eventSubject, how); err != nil {
			return 0, err
		}
	}
	return id, nil
}

const eventSubject = "task-events-value"

// taskEvent is the id of the schema of task events.
func (r *schemaRegistry) taskEvent(ctx context.Context) (id int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	found, err := r.direct.SchemaByVersion(ctx, eventSubject, -1)
	return found.ID, err
}

// encoded are the settings of a program that writes or reads events.
func (y *system) encoded() []string {
	if y.registry == nil {
		return nil
	}
	return []string{"EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL=" + y.registry.url}
}
