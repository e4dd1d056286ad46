package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/stack"
)

const broker = "broker"

func services() []string { return []string{"taskapi", "bridge", "notifier", "auditor"} }

// system is the running system as scripts see it: names, not processes.
type system interface {
	start(name string) error // returns before it listens
	stop(name string) error  // SIGTERM; nil when it drained and exited 0
	kill(name string) error  // SIGKILL
	ended(name string) (status string, ended bool)
	brokers() string // bootstrap servers
	close() error
}

// address returns the script's own address for localhost:port of the documents.
func (w *world) address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(w.base+port-8000))
}

func (w *world) logDir() string             { return filepath.Join(w.work, "log") }
func (w *world) logFile(name string) string { return filepath.Join(w.logDir(), name+".log") }

func (w *world) openLog(name string) (*os.File, error) {
	return os.OpenFile(w.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// logs returns the end of every service's log, for a failed script.
func (w *world) logs() string {
	var b strings.Builder
	for _, name := range services() {
		text, err := os.ReadFile(w.logFile(name))
		if err != nil {
			continue
		}
		if cut := len(text) - 4000; cut > 0 {
			text = text[cut:]
		}
		fmt.Fprintf(&b, "---- end of the log of %s\n%s", name, text)
	}
	return b.String()
}

func (w *world) lookup(key string) (string, bool) { v, ok := w.env[key]; return v, ok }

// oneProcess runs the services in the test's own process.
type oneProcess struct {
	stack *stack.Stack
	files []*os.File
}

func newOneProcess(w *world) (system, error) {
	o := &oneProcess{}
	loggers := map[string]*slog.Logger{}
	for _, name := range services() {
		f, err := w.openLog(name)
		if err != nil {
			return nil, err
		}
		o.files = append(o.files, f)
		loggers[name] = process.NewLogger(f, "json", "info", name)
	}
	var err error
	o.stack, err = stack.Open(stack.Options{
		DataDir: w.data, PortBase: w.base, Env: env.Lookup(w.lookup),
		Log: func(service string) *slog.Logger { return loggers[service] },
	})
	if err != nil {
		return nil, err
	}
	if err := o.start(broker); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *oneProcess) start(name string) error { return o.stack.Start(context.Background(), name) }
func (o *oneProcess) stop(name string) error  { return o.stack.Stop(name) }
func (o *oneProcess) brokers() string         { return strings.Join(o.stack.Brokers(), ",") }

func (o *oneProcess) kill(string) error {
	return errors.New("cannot kill a service of this process alone; begin the script with [!processes] skip")
}

func (o *oneProcess) ended(string) (string, bool) { return "", false }

func (o *oneProcess) close() error {
	errs := []error{o.stack.Close()}
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// brokerUnderTest is the Kafka of the processes.
type brokerUnderTest interface {
	start() error
	stop() error  // keeps the data
	close() error // at the end of the script
	addrs() []string
}

type embeddedBroker struct {
	address, dir string
	running      *embedkafka.Broker
}

func (b *embeddedBroker) addrs() []string { return []string{b.address} }

func (b *embeddedBroker) start() (err error) {
	b.running, err = embedkafka.Start(embedkafka.Config{
		Addr: b.address, DataDir: b.dir, Topics: map[string]int{"task-events": 1, "task-events-dlq": 1, "taskwire-control": 1},
		Compact: []string{"taskwire-control"},
	})
	return err
}

func (b *embeddedBroker) stop() error {
	if b.running == nil {
		return nil
	}
	running := b.running
	b.running = nil
	return running.Close()
}

func (b *embeddedBroker) close() error { return b.stop() }

// processes has each service as a process of its own.
type processes struct {
	w       *world
	kafka   brokerUnderTest
	bin     string // folder of the programs; "" = this binary under their names
	running map[string]*child.Process
}

func newProcesses(w *world, kafka brokerUnderTest) (system, error) {
	if err := kafka.start(); err != nil {
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	return &processes{w: w, kafka: kafka, running: map[string]*child.Process{}}, nil
}

func (p *processes) brokers() string { return strings.Join(p.kafka.addrs(), ",") }

func (p *processes) start(name string) error {
	if name == broker {
		return p.kafka.start()
	}
	cmd := exec.Command(filepath.Join(p.bin, name))
	cmd.Dir, cmd.Env = p.w.work, p.settings(name)
	c, err := child.Start(cmd, p.w.logFile(name))
	if err != nil {
		return err
	}
	p.running[name] = c
	return nil
}

// settings returns the complete environment of a service; nothing of the test's own leaks in.
func (p *processes) settings(name string) []string {
	w := p.w
	port := map[string]int{"taskapi": 8000, "bridge": 8001, "notifier": 8002, "auditor": 8003}[name]
	set := map[string]string{
		"PATH":                    os.Getenv("PATH"),
		"TASKWIRE_ROOT":           root(),
		"LISTEN_ADDR":             w.address(port),
		"OPS_ADDR":                w.address(port + 1000),
		"KAFKA_BOOTSTRAP_SERVERS": p.brokers(),
		"NOTIFIER_URL":            "http://" + w.address(8002) + "/",
		"AUDITOR_URL":             "http://" + w.address(8003) + "/",
		"DATABASE_URL":            "sqlite:" + filepath.Join(w.data, "tasks.db"),
		"AUDIT_LOG_PATH":          filepath.Join(w.data, "audit.log"),
		"LOG_FORMAT":              "json",
		"GOCOVERDIR":              os.Getenv("GOCOVERDIR"),
	}
	for k, v := range w.env {
		set[k] = v
	}
	var list []string
	for k, v := range set {
		list = append(list, k+"="+v)
	}
	return list
}

func (p *processes) stop(name string) error {
	if name == broker {
		return p.kafka.stop()
	}
	return p.signal(name, syscall.SIGTERM)
}

func (p *processes) kill(name string) error {
	var exit *exec.ExitError
	err := p.signal(name, syscall.SIGKILL)
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("%s was not ended by SIGKILL: %w", name, err)
}

// signal sends sig and waits for the end. A process that does not end is killed.
func (p *processes) signal(name string, sig syscall.Signal) error {
	c, ok := p.running[name]
	if !ok {
		return fmt.Errorf("%s is not running", name)
	}
	delete(p.running, name)
	if err := c.End(sig, patience()); err != nil {
		return err
	}
	return c.Wait()
}

func (p *processes) ended(name string) (string, bool) {
	c, ok := p.running[name]
	if !ok {
		return "not started", true
	}
	select {
	case <-c.Done():
		return c.State().String(), true
	default:
		return "", false
	}
}

func (p *processes) close() error {
	var errs []error
	for _, name := range services() {
		if _, ended := p.ended(name); !ended {
			if err := p.stop(name); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	return errors.Join(append(errs, p.kafka.close())...)
}
