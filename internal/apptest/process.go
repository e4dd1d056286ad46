package apptest

import (
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// Process is a service that runs as a process, usually the test binary itself.
// Unlike child.Process it keeps the log in memory, where tests wait for lines, and
// leaves the attributes of cmd to the caller, who may choose another user.
type Process struct {
	cmd  *exec.Cmd
	log  Log
	done chan struct{} // closed when the process has ended
}

// Exec starts cmd, which must not outlive the test.
func Exec(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stderr = &p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); _ = cmd.Wait() }() // Exit returns the status
	t.Cleanup(func() {
		p.Signal(os.Kill)
		p.Exit()
		if t.Failed() {
			t.Logf("log of the process:\n%s", p.log.String())
		}
	})
	return p
}

// Self starts the test binary with env as its whole environment; TestMain must
// recognize it there.
func Self(t testing.TB, env ...string) *Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = env
	return Exec(t, cmd)
}

// Signal does nothing to a process that has ended.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Exit waits for the end and returns the exit status, -1 after a signal. It
// kills a process that does not end.
func (p *Process) Exit() int {
	select {
	case <-p.done:
	case <-time.After(patience):
		p.Signal(os.Kill)
		<-p.done
	}
	return p.cmd.ProcessState.ExitCode()
}

// Terminate sends SIGTERM and returns the exit status.
func (p *Process) Terminate() int {
	p.Signal(syscall.SIGTERM)
	return p.Exit()
}

// Log returns what the process has logged.
func (p *Process) Log() string { return p.log.String() }

// Count returns how many lines of the log contain text.
func (p *Process) Count(text string) int { return p.log.Count(text) }

// Await waits until the process has logged text.
func (p *Process) Await(t testing.TB, text string) {
	t.Helper()
	p.await(t, text, func() bool { return p.log.Count(text) > 0 })
}

var listening = regexp.MustCompile(`"msg":"listening".*"addr":"([^"]*)","ops_addr":"([^"]*)"`)

// URLs waits until the service listens and returns the URLs of its public and
// its operator port, without a slash at the end.
func (p *Process) URLs(t testing.TB) (base, ops string) {
	t.Helper()
	var m []string
	p.await(t, "listening", func() bool { m = listening.FindStringSubmatch(p.log.String()); return m != nil })
	return "http://" + m[1], "http://" + m[2]
}

func (p *Process) await(t testing.TB, what string, logged func() bool) {
	t.Helper()
	Await(t, "the process has logged "+what, func() bool {
		select {
		case <-p.done: // then the log is complete
			if !logged() {
				t.Fatalf("the process exited with status %d and did not log %q", p.Exit(), what)
			}
			return true
		default:
			return logged()
		}
	})
}
