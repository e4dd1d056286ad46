package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// benchPath lets 64 clients create tasks as fast as they are answered, while the
// broker and all services share the machine with them. What counts is what
// arrives: a system whose API is faster than its audit is only longer behind.
func benchPath(ctx context.Context, r *rig, t *table) error {
	bare, err := r.bareAppends(ctx, jsonType, creates(r.n(60_000)))
	if err != nil {
		return err
	}
	s, err := r.startSystem(ctx)
	if err != nil {
		return err
	}
	window := r.window(15 * time.Second)
	r.say("64 clients for %v", window)
	profiled := r.profile(ctx, s.procs, window)
	before, err := ownCPU()
	if err != nil {
		return err
	}
	l, err := s.load(ctx, window)
	if err = errors.Join(err, <-profiled); err != nil {
		return err
	}
	t.against("changes answered with 201", perSecond, float64(l.created)/window.Seconds(), bare.rate, timesBase(2))
	t.figure("changes audited by the end", perSecond, float64(l.created-l.end)/window.Seconds(), timesBase(2))
	t.figure("most that were behind, answered but not audited", count, float64(l.most), atMost(1000))
	t.figure("median of those behind", count, float64(l.middle), none)
	t.figure("behind at the end", count, float64(l.end), atMost(1000))
	t.figure("last answer to all audited", seconds, l.caughtUp.Seconds(), none)
	after, err := ownCPU()
	if err != nil {
		return err
	}
	l.clients = after - before
	requests, err := s.procs["auditor"].metric(ctx, `taskwire_http_request_seconds_count{route="/",service="auditor"}`)
	if err != nil {
		return err
	}
	t.figure("events in a post to the auditor", average, float64(l.created)/requests, none)
	return s.cpu(t, l)
}

// cpu ends everything and says who used how much. On a machine that is shared
// with others, the sum says more than the rate.
func (s *system) cpu(t *table, l loaded) error {
	sum := l.clients
	for _, name := range []string{"taskapi", "bridge", "auditor", "notifier"} {
		cpu, err := s.procs[name].stop()
		if err != nil {
			return err
		}
		sum += cpu
		t.figure("CPU a change: "+name, seconds, cpu/float64(l.created), none)
	}
	if s.broker.proc != nil {
		if err := s.broker.close(); err != nil {
			return err
		}
		sum += s.broker.proc.cpu()
		t.figure("CPU a change: broker", seconds, s.broker.proc.cpu()/float64(l.created), none)
	}
	t.figure("CPU a change: clients", seconds, l.clients/float64(l.created), none)
	t.figure("CPU a change: all of these", seconds, sum/float64(l.created), none)
	return nil
}

// ownCPU is the seconds that this process has used.
func ownCPU() (float64, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(), err
}

// system is all of taskwire, each service in its process.
type system struct {
	broker   *broker
	procs    map[string]*proc
	auditLog string
}

func (r *rig) startSystem(ctx context.Context) (*system, error) {
	b, err := r.broker(ctx, 1)
	if err != nil {
		return nil, err
	}
	s := &system{broker: b, procs: map[string]*proc{}, auditLog: filepath.Join(r.sub("audit"), "audit.log")}
	start := func(name string, env ...string) (err error) {
		s.procs[name], err = r.service(ctx, name, env...)
		return err
	}
	if err := errors.Join(start("notifier"), start("auditor", "AUDIT_LOG_PATH="+s.auditLog)); err != nil {
		return nil, err
	}
	return s, errors.Join(
		start("bridge", append(b.settings(), "KAFKA_GROUP_INSTANCE_ID=bench-0",
			"NOTIFIER_URL="+s.procs["notifier"].url+"/", "AUDITOR_URL="+s.procs["auditor"].url+"/")...),
		start("taskapi", append(b.settings(), "DATABASE_URL=sqlite:"+filepath.Join(r.sub("tasks"), "tasks.db"))...))
}

// loaded is what happened under load.
type loaded struct {
	created           int64 // answered with 201
	most, middle, end int64 // how many of them were not audited: at worst, at the median, when the load ended
	caughtUp          time.Duration
	clients           float64 // CPU seconds of this process
}

// load ends when everything is audited.
func (s *system) load(ctx context.Context, window time.Duration) (l loaded, err error) {
	var created atomic.Int64
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clients := make(chan error, 1)
	go func() { clients <- createFor(ctx, []string{s.procs["taskapi"].url}, window, &created) }()
	log := &lines{path: s.auditLog}
	defer log.close()
	var behind []int64
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err = <-clients:
		case <-tick.C:
			answered := created.Load() // first: what is audited meanwhile does not count as behind
			n, err := log.count()
			if err != nil {
				cancel()
				return l, errors.Join(err, <-clients)
			}
			behind = append(behind, max(0, answered-n))
			continue
		}
		break
	}
	if err != nil {
		return l, err
	}
	ended := time.Now()
	l.created = created.Load()
	for first := true; ; first = false {
		n, err := log.count()
		if err != nil {
			return l, err
		}
		if first {
			l.end = max(0, l.created-n)
		}
		if n >= l.created {
			break
		}
		if time.Since(ended) > 2*time.Minute {
			return l, fmt.Errorf("%d of %d changes are audited 2 minutes after the load", n, l.created)
		}
		if err := retry.Pause(ctx, time.Millisecond); err != nil {
			return l, err
		}
	}
	l.caughtUp = time.Since(ended)
	behind = append(behind, l.end)
	slices.Sort(behind)
	l.most, l.middle = behind[len(behind)-1], behind[len(behind)/2]
	return l, nil
}

// createFor creates tasks from 64 clients, which share the APIs.
func createFor(ctx context.Context, urls []string, window time.Duration, created *atomic.Int64) error {
	c := client(64)
	defer c.CloseIdleConnections()
	end := time.Now().Add(window)
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 64 {
		wg.Go(func() {
			body, url := fmt.Appendf(nil, `{"title": "A task of client %d"}`, i), urls[i%len(urls)]
			for time.Now().Before(end) && ctx.Err() == nil {
				resp, err := c.Post(url+"/tasks", jsonType, bytes.NewReader(body))
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != http.StatusCreated {
						err = fmt.Errorf("create: status %d", resp.StatusCode)
					}
				}
				if err != nil {
					errs <- err
					return
				}
				created.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// lines counts the lines of a file that grows.
type lines struct {
	path string
	file *os.File
	n    int64
	buf  [256 << 10]byte
}

func (l *lines) count() (int64, error) {
	if l.file == nil {
		var err error
		if l.file, err = os.Open(l.path); err != nil {
			return 0, err
		}
	}
	for {
		n, err := l.file.Read(l.buf[:])
		l.n += int64(bytes.Count(l.buf[:n], []byte("\n")))
		if err == io.EOF {
			return l.n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (l *lines) close() {
	if l.file != nil {
		_ = l.file.Close() // it was only read
	}
}

// profile keeps CPU profiles of the services, when they are asked for. The
// channel has one value.
func (r *rig) profile(ctx context.Context, procs map[string]*proc, window time.Duration) <-chan error {
	done := make(chan error, 1)
	if r.options.profile == "" {
		done <- nil
		return done
	}
	go func() {
		var wg sync.WaitGroup
		errs := make([]error, len(procs)+1)
		wg.Go(func() { errs[len(procs)] = profileSelf(ctx, filepath.Join(r.options.profile, "clients.pprof"), window) })
		i := 0
		for name, p := range procs {
			into := &errs[i]
			i++
			wg.Go(func() {
				url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", p.ops, max(1, int(window.Seconds())-3))
				profile, err := get(ctx, url)
				if filepath.Base(r.programs) == "base" {
					name += "-base"
				}
				if err == nil {
					err = os.WriteFile(filepath.Join(r.options.profile, name+".pprof"), profile, 0o600)
				}
				*into = err
			})
		}
		wg.Wait()
		done <- errors.Join(errs...)
	}()
	return done
}

// profileSelf is the clients' share.
func profileSelf(ctx context.Context, path string, window time.Duration) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	err = retry.Pause(ctx, window)
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}
