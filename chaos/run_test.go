package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestMain(m *testing.M) {
	if os.Getenv("CHAOS_MAIN") != "" || len(os.Args) > 1 && os.Args[1] == "broker" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bin")
	if err := buildPrograms(t.Context(), "..", bin, ""); err != nil {
		t.Fatal(err)
	}
	return bin
}

// TestShortRun injects every fault at least once, on the embedded broker or on a
// real one. A red run keeps its folder, which the output names.
func TestShortRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	s := settings{Duration: time.Minute, Drain: 3 * time.Minute, Seed: 1, Kafka: "embedded", Bin: build(t), Workers: 4, Rate: 10,
		Faults: allFaults, First: sinkFaults, Answers: "cut-after,cut-after,503,302,500,hang"} // the lost answer first: no other makes the auditor receive an event twice
	if kafkatest.IsReal() {
		s.Kafka = "real"
	}
	green(t, s)
}

// TestShortRunOnPostgreSQL has two Task APIs and two auditors on one server, which
// is killed, shut down at once or frozen, or whose sessions are ended.
func TestShortRunOnPostgreSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	green(t, settings{Duration: 30 * time.Second, Drain: 2 * time.Minute, Seed: 5, Kafka: "embedded", Database: "postgres", Bin: build(t), Workers: 4, Rate: 10,
		Faults: "kill,stop,database,sink", First: sinkFaults, Answers: "cut-after,cut-after,503"})
}

// TestShortRunInAvro has the Schema Registry fail in two ways while all bridges, then a
// Task API start that know no schema yet, and then lose its data. No event may be lost or
// become a dead letter for it, or be read with another schema.
func TestShortRunInAvro(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	s := settings{Duration: time.Minute, Drain: 2 * time.Minute, Seed: 3, Kafka: "embedded", Encoding: "avro", Bin: build(t), Workers: 4, Rate: 10, Once: true,
		Faults: "registry,schemas", First: []string{"registry", "registry", "schemas"},
		Need: map[string]int{"acks": 20, "in-avro": 20, "registry-unread": 1, "registry-unregistered": 1, "effective:registry": 2, "recovered:registry": 2,
			"schemas-lost": 1, "effective:schemas": 1, "recovered:schemas": 1}}
	green(t, s)
}

// TestShortScaledRun kills, stops and replaces processes of a system that has several of
// each. make scale is the long form, in which each of them has its turn.
func TestShortScaledRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	s := settings{Duration: time.Minute, Drain: 2 * time.Minute, Seed: 2, Kafka: "embedded", Bin: build(t), Workers: 4, Rate: 10, Scale: true, Once: true,
		Faults: "kill,replace", Need: map[string]int{"acks": 50}}
	s.scale()
	s.First = []string{"replace", "kill"}
	for _, kind := range s.First {
		s.Need["effective:"+kind], s.Need["recovered:"+kind] = 1, 1
	}
	green(t, s)
}

// TestSeveralBrokers loses brokers and bridges one after the other, with three
// replicas of which two must acknowledge, and judges what is left.
func TestSeveralBrokers(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	s := settings{Duration: 5 * time.Minute, Drain: 2 * time.Minute, Seed: 1, Kafka: "real", Brokers: 3, Bin: build(t), Workers: 4, Rate: 10, Once: true,
		First: []string{"leader", "coordinator", "majority", "rolling", "update"}, Need: map[string]int{"acks": 200, "snapshots": 1, "commits": 1}}
	s.Faults = strings.Join(s.First, ",")
	for _, kind := range s.First {
		s.Need["effective:"+kind], s.Need["recovered:"+kind] = 1, 1
	}
	green(t, s)
}

// green runs s, whose folder is kept and named in the output if it is not GREEN.
func green(t *testing.T, s settings) {
	t.Helper()
	var out bytes.Buffer
	rep, err := run(t.Context(), s, &out)
	t.Logf("%s", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if rep.Verdict != check.Green {
		t.Errorf("the verdict is %s", rep.Verdict)
	}
}

func TestNothingOutlivesTheRun(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc, and only Linux ends children with their parent")
	}
	bin := build(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			cmd := exec.Command(os.Args[0], "run", "-kafka", "embedded", "-faults", "", "-workers", "1", "-bin", bin, "-dir", dir)
			cmd.Env = append(os.Environ(), "CHAOS_MAIN=1")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for lines := bufio.NewScanner(stdout); lines.Scan() && !strings.Contains(lines.Text(), "requests"); {
			}
			if n := len(children(t, dir)); n < 5 {
				t.Errorf("%d processes, want broker, taskapi, bridges, notifier and auditor", n)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it ended by the signal
			deadline := time.Now().Add(20 * time.Second)
			for len(children(t, dir)) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("still running after 20 s: %v", children(t, dir))
				}
				time.Sleep(10 * time.Millisecond) // polls other processes, until a deadline
			}
		})
	}
}

// children are the processes whose home is the run's folder.
func children(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, name := range all {
		env, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(append(env, 0), []byte("HOME="+dir+"\x00")) {
			found = append(found, name)
		}
	}
	return found
}
