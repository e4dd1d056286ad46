// Package stack runs the whole system in one process: the embedded broker and
// the four services, each made by the same app.New as its own program, so that
// the combined mode has no wiring of its own. It decides only ports, the data
// folder and the addresses of the services for each other; every other setting
// comes from the caller.
//
// Only dev and tests import it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/ownfile"
)

// Broker is the name of the embedded broker for Start, Stop and Restart.
const Broker = "broker"

// Options configure a stack; the zero value of each but DataDir is usable.
type Options struct {
	DataDir  string                            // kafka/, and without DATABASE_URL tasks.db, without AUDIT_DATABASE_URL audit.log and the files beside it
	PortBase int                               // see assignPorts; 0 = free ports
	Brokers  []string                          // an existing cluster; empty = the embedded broker
	Env      env.Lookup                        // settings the stack does not decide itself, asked at each start; nil = none
	Log      func(service string) *slog.Logger // nil = silent

	Breakable bool // the bridge's console may break sinks for a trial
}

// Stack is a running system. Its methods may be called from several goroutines.
type Stack struct {
	opts   Options
	unlock func() error
	faults chan error // one per service that ended without a stop

	mu      sync.Mutex // guards everything below; held while one service starts or stops
	broker  *embedkafka.Broker
	running map[string]*instance
	addrs   map[string]string // public address by service, kept over a restart
	ops     map[string]string
	kafka   string // address of the embedded broker, kept over a restart
}

// instance is one start of a service.
type instance struct {
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
}

// names lists the parts of a stack in the order they must stop: each stops after
// those that send to it. Starting goes the other way.
func names() []string { return []string{"taskapi", "bridge", "notifier", "auditor", Broker} }

// Open locks the data folder and starts nothing yet.
func Open(opts Options) (*Stack, error) {
	if opts.Env == nil {
		opts.Env = env.Map(nil)
	}
	if opts.Log == nil {
		opts.Log = func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	if err := ownfile.CheckFolder(opts.DataDir); err != nil {
		return nil, fmt.Errorf("the data folder %w", err)
	}
	unlock, err := lock(opts.DataDir)
	if err != nil {
		return nil, err
	}
	s := &Stack{opts: opts, unlock: unlock, faults: make(chan error, 16), running: map[string]*instance{}, addrs: map[string]string{}, ops: map[string]string{}}
	s.assignPorts()
	return s, nil
}

// Start opens a stack and starts everything in it. Wrong settings of all
// services are reported together, as an *env.Error, before any port is opened.
func Start(ctx context.Context, opts Options) (*Stack, error) {
	s, err := Open(opts)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Start starts the services named, or all; running ones are not touched.
func (s *Stack) Start(ctx context.Context, which ...string) error {
	if len(which) == 0 {
		which = names()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(which); err != nil {
		return err
	}
	for _, name := range slices.Backward(names()) {
		if !slices.Contains(which, name) {
			continue
		}
		if err := s.start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// check reads the settings of every service and opens nothing.
func (s *Stack) check(which []string) error {
	var mistakes []string
	for _, name := range which {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("no service is called %q; there are %s", name, strings.Join(names(), ", "))
		}
		if name == Broker {
			continue
		}
		err := s.doors()[name].check(s.settings(name))
		var wrong *env.Error
		switch {
		case errors.As(err, &wrong):
			for _, m := range wrong.Mistakes {
				if !slices.Contains(mistakes, m) {
					mistakes = append(mistakes, m)
				}
			}
		case err != nil:
			return fmt.Errorf("settings of %s: %w", name, err)
		}
	}
	if len(mistakes) > 0 {
		return &env.Error{Mistakes: mistakes}
	}
	return nil
}

func (s *Stack) start(ctx context.Context, name string) error {
	if name == Broker {
		return s.startBroker()
	}
	if in, ok := s.running[name]; ok && !in.ended() {
		return nil
	}
	service, err := s.doors()[name].open(ctx, s.settings(name), s.opts.Log(name))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.addrs[name], s.ops[name] = service.Addr().String(), service.OpsAddr().String()
	// The end of the caller's context must not stop everything at once: Close
	// stops one service after the other.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	in := &instance{cancel: cancel, done: make(chan struct{})}
	s.running[name] = in
	go func() {
		defer close(in.done)
		in.err = service.Run(run)
		switch {
		case run.Err() != nil: // it was stopped
		case in.err != nil:
			s.report(fmt.Errorf("%s: %w", name, in.err))
		default:
			s.report(fmt.Errorf("%s ended by itself", name))
		}
	}()
	return nil
}

// report never blocks: the first error ends Run, later ones are in the log.
func (s *Stack) report(err error) {
	select {
	case s.faults <- err:
	default:
	}
}

func (in *instance) ended() bool {
	select {
	case <-in.done:
		return true
	default:
		return false
	}
}

func (s *Stack) startBroker() error {
	if len(s.opts.Brokers) > 0 || s.broker != nil {
		return nil
	}
	b, err := embedkafka.Start(embedkafka.Config{
		Addr:    s.kafka,
		DataDir: filepath.Join(s.opts.DataDir, "kafka"),
		Topics:  map[string]int{"task-events": 1, "task-events-dlq": 1, "taskwire-control": 1},
		Compact: []string{"taskwire-control"},
	})
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	s.broker, s.kafka = b, b.Addr()
	return nil
}

// Stop drains the services named, or all, one after the other, as SIGTERM
// would, and returns what their Run returned.
func (s *Stack) Stop(which ...string) error {
	if len(which) == 0 {
		which = names()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, name := range names() {
		if slices.Contains(which, name) {
			errs = append(errs, s.stop(name))
		}
	}
	return errors.Join(errs...)
}

func (s *Stack) stop(name string) error {
	if name == Broker {
		return s.stopBroker()
	}
	in, ok := s.running[name]
	if !ok {
		return nil
	}
	delete(s.running, name)
	in.cancel()
	<-in.done
	if in.err != nil {
		return fmt.Errorf("%s: %w", name, in.err)
	}
	return nil
}

func (s *Stack) stopBroker() error {
	if s.broker == nil {
		return nil
	}
	b := s.broker
	s.broker = nil
	if err := b.Close(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

// Restart stops and starts the services named at the addresses they had.
func (s *Stack) Restart(ctx context.Context, which ...string) error {
	return errors.Join(s.Stop(which...), s.Start(ctx, which...))
}

// Run waits until ctx ends or a service ends by itself, then stops everything in
// order. It returns nil when all of it was clean.
func (s *Stack) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-s.faults:
		return errors.Join(err, s.Close())
	}
}

// Close stops everything in order and releases the data folder.
func (s *Stack) Close() error { return errors.Join(s.Stop(), s.unlock()) }

// URL is the public address of a service, with a slash at its end.
func (s *Stack) URL(service string) string { return s.url(s.addrs, service) }

// OpsURL is the operator address of a service, with a slash at its end.
func (s *Stack) OpsURL(service string) string { return s.url(s.ops, service) }

func (s *Stack) url(of map[string]string, service string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + of[service] + "/"
}

// AuditLog is the path of the audit log, "" when AUDIT_DATABASE_URL is set.
func (s *Stack) AuditLog() string {
	if database, _ := s.opts.Env("AUDIT_DATABASE_URL"); database != "" {
		return ""
	}
	return filepath.Join(s.opts.DataDir, "audit.log")
}

// Brokers are the addresses of the cluster in use.
func (s *Stack) Brokers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.brokers()
}

func (s *Stack) brokers() []string {
	if len(s.opts.Brokers) > 0 {
		return s.opts.Brokers
	}
	return []string{s.kafka}
}

// assignPorts sets the ports that dev documents: services from PortBase on,
// operator ports 1000 higher, the broker 1092 higher. Loopback only: a
// development system asks nobody for a password.
func (s *Stack) assignPorts() {
	for i, name := range []string{"taskapi", "bridge", "notifier", "auditor"} {
		s.addrs[name], s.ops[name] = loopback(s.opts.PortBase, i), loopback(s.opts.PortBase, 1000+i)
	}
	s.kafka = loopback(s.opts.PortBase, 1092)
}

func loopback(base, offset int) string {
	if base == 0 {
		return "127.0.0.1:0"
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+offset))
}
