package child

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The children of these tests are this test binary again.
func TestMain(m *testing.M) {
	switch os.Getenv("CHILD_ROLE") {
	case "":
		goleak.VerifyTestMain(m)
	case "drain":
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		os.Stdout.WriteString("started\n")
		<-term
		os.Stderr.WriteString("drained\n")
		os.Exit(3)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		os.Stdout.WriteString("started\n")
		select {}
	case "parent":
		p, err := Start(role("deaf"), os.Getenv("CHILD_LOG"))
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(p.Pid()) + "\n")
		select {}
	}
}

func role(name string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(env, "CHILD_ROLE="+name)
	return cmd
}

// start returns when the child has printed a line.
func start(t *testing.T, cmd *exec.Cmd) (*Process, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	p, err := Start(cmd, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.End(syscall.SIGKILL, time.Minute) })
	await(t, "the first line of the log", func() bool { return strings.Contains(read(t, log), "\n") })
	return p, log
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// await polls what another process does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestEndWaitsForTheDrain(t *testing.T) {
	p, log := start(t, role("drain"))
	if err := p.Signal(syscall.SIGSTOP); err != nil { // End must continue it
		t.Fatal(err)
	}
	if err := p.End(syscall.SIGTERM, time.Minute); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("Wait = %v, want exit status 3", err)
	}
	if got := read(t, log); got != "started\ndrained\n" {
		t.Errorf("the log is %q", got)
	}
	if err := errors.Join(p.Signal(syscall.SIGTERM), p.End(syscall.SIGKILL, time.Minute)); err != nil {
		t.Errorf("signals to a process that has ended: %v", err)
	}
}

func TestEndKillsAProcessThatDoesNotEnd(t *testing.T) {
	p, log := start(t, role("deaf"))
	if err := p.End(syscall.SIGTERM, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), log) {
		t.Errorf("End = %v, want an error that names the log", err)
	}
	if status := p.State().Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended by %v, want SIGKILL", status.Signal())
	}
}

func TestAwaitReady(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	p, log := start(t, role("deaf"))
	if err := p.AwaitReady(t.Context(), server.URL); err != nil || requests.Load() != 3 {
		t.Errorf("AwaitReady = %v after %d requests, want nil after 3", err, requests.Load())
	}
	if err := p.End(syscall.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if err := p.AwaitReady(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), log) {
		t.Errorf("AwaitReady of a killed process = %v, want an error that names the log", err)
	}
}

func TestAChildDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends children with their parent")
	}
	p, log := start(t, role("parent", "CHILD_LOG="+filepath.Join(t.TempDir(), "grandchild")))
	grandchild, err := strconv.Atoi(strings.TrimSpace(read(t, log)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(grandchild, 0); err != nil {
		t.Fatalf("the grandchild does not run: %v", err)
	}
	if err := p.End(syscall.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
	// It stays a zombie where no init collects it.
	await(t, "the end of the grandchild", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(grandchild) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
