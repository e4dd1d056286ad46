// Package acceptance_test runs the executable specification in
// testdata/script: one requirement for each file, prose first. README.md describes
// how to read and run it.
package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	auditor "github.com/taskwire/taskwire/auditor/app"
	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/process"
	notifier "github.com/taskwire/taskwire/notifier/app"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

// TestMain makes this binary act as one of the four programs, or as curl, when
// it is started under that name: real processes and signals without a build step.
func TestMain(m *testing.M) {
	// Not one of testscript's programs: curl as a command of the scripts runs in this process.
	if filepath.Base(os.Args[0]) == "curl" {
		os.Exit(curlProgram())
	}
	testscript.Main(leakChecked{m}, map[string]func(){
		"taskapi": func() {
			process.Main("taskapi", source("taskapi"), taskapi.FromEnv, taskapi.New, taskapi.Key, taskapi.Backup())
		},
		"bridge":   func() { process.Main("bridge", source("bridge"), bridge.FromEnv, bridge.New, bridge.Commands()...) },
		"notifier": func() { process.Main("notifier", source("notifier"), notifier.FromEnv, notifier.New) },
		"auditor": func() {
			process.Main("auditor", source("auditor"), auditor.FromEnv, auditor.New, auditor.Cat(), auditor.Key(), auditor.Verify(), auditor.Reconcile())
		},
	})
}

// source is the main.go that the real program embeds for its --help.
func source(service string) string {
	text, err := os.ReadFile(filepath.Join(os.Getenv("TASKWIRE_ROOT"), service, "main.go"))
	if err != nil {
		return "" // the script manuals fails on an empty manual
	}
	return string(text)
}

type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	status := l.m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
		return 1
	}
	if err := missing(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		return 1
	}
	return status
}

// mode is one way to run the system under the scripts.
type mode struct {
	processes bool // services are processes, with SIGKILL and exit statuses
	kafka     bool // the broker is a real Apache Kafka, with its tools
	cluster   bool // services are Deployments of a Kubernetes cluster, which cannot read local files
	boot      func(*world) (system, error)
	turn      sync.Locker // held by the running script, when scripts share a cluster
}

// TestOneProcess runs every script against the four services in this process,
// as `go run ./dev` has them, with the embedded broker.
func TestOneProcess(t *testing.T) {
	scripts(t, mode{boot: newOneProcess})
}

// TestProcesses runs every script against four real processes, stopped by real
// signals. Each script has its own broker or, with KAFKA_REAL=1, all share one
// real Apache Kafka.
func TestProcesses(t *testing.T) {
	scripts(t, processMode(t))
}

func processMode(t *testing.T) mode {
	if os.Getenv("KAFKA_REAL") != "1" {
		return mode{processes: true, boot: func(w *world) (system, error) {
			return newProcesses(w, &embeddedBroker{address: w.address(9092), dir: filepath.Join(w.data, "kafka")})
		}}
	}
	cluster := kafkatest.StartReal(t)
	return mode{processes: true, kafka: true, turn: new(sync.Mutex), boot: func(w *world) (system, error) {
		return newProcesses(w, &realBroker{cluster: cluster})
	}}
}

// patience bounds every wait. It decides only how long a failure takes.
func patience() time.Duration {
	if os.Getenv("KAFKA_REAL") == "1" {
		return 90 * time.Second
	}
	return 45 * time.Second
}

func scripts(t *testing.T, m mode) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Cmds:               commands(),
		Setup: func(e *testscript.Env) error {
			if m.turn != nil {
				m.turn.Lock()
				e.Defer(m.turn.Unlock)
			}
			return setup(e, m)
		},
		Condition: m.condition,
	})
}

func (m mode) condition(cond string) (bool, error) {
	switch cond {
	case "processes":
		return m.processes, nil
	case "kafka":
		return m.kafka, nil
	case "cluster":
		return m.cluster, nil
	case "avro":
		return inAvro(), nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

type worldKey struct{}

// world belongs to one script: a folder, ports and a system.
type world struct {
	work, data string
	base       int               // port of its task API; the others follow as with dev -port-base
	env        map[string]string // settings that start was given
	system     system
}

// newWorld returns a world without a system.
func newWorld(work string) (*world, error) {
	w := &world{work: work, data: filepath.Join(work, "data"), base: freeport.Base(), env: map[string]string{}}
	return w, errors.Join(os.MkdirAll(w.data, 0o700), os.MkdirAll(w.logDir(), 0o700))
}

func setup(e *testscript.Env, m mode) error {
	w, err := newWorld(e.WorkDir)
	if err != nil {
		return err
	}
	if inAvro() {
		w.useRegistry(e)
	}
	if w.system, err = m.boot(w); err != nil {
		return err
	}
	e.Defer(func() { w.close(e) })
	e.Values[worldKey{}] = w
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Join(e.WorkDir, ".bin")
	if err := errors.Join(os.Mkdir(bin, 0o700), os.Symlink(self, filepath.Join(bin, "curl"))); err != nil {
		return err
	}
	e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
	e.Setenv("TASKWIRE_ROOT", root())
	e.Setenv("TASKWIRE_PORT_BASE", fmt.Sprint(w.base))
	e.Setenv("BRIDGE_PORT", fmt.Sprint(w.base+1))
	e.Setenv("NOTIFIER_PORT", fmt.Sprint(w.base+2))
	e.Setenv("AUDITOR_PORT", fmt.Sprint(w.base+3))
	e.Setenv("KAFKA_BOOTSTRAP_SERVERS", w.system.brokers())
	e.Setenv("LOG_FORMAT", "json")
	return nil
}

// close stops what the script left running; a failed drain fails the script.
func (w *world) close(e *testscript.Env) {
	tb, ok := e.T().(testing.TB)
	if err := w.examine(context.Background()); err != nil && ok {
		tb.Errorf("metrics at the end of the script:\n%v", err)
	}
	if err := w.system.close(); err != nil && ok {
		tb.Errorf("stop everything: %v", err)
	}
	if ok && tb.Failed() {
		tb.Log(w.logs())
	}
}

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}
