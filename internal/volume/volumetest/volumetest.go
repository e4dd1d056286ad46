// Package volumetest gives a real process a volume that it cannot use. Root may
// write everywhere, so when root runs the tests the process runs as another
// user, as it does in a pod.
package volumetest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// nobody is a user without privileges.
const nobody = 65534

// Volume is a folder and one way to make it unusable.
type Volume struct {
	Name   string
	Dir    string
	Reason string // the system's error text
	Break  func(*testing.T)
	Fix    func(*testing.T)
}

// Each runs test for every kind of broken volume that this machine allows: file
// modes anywhere; a read-only and a full file system where the user may mount.
func Each(t *testing.T, test func(*testing.T, Volume)) {
	for _, make := range append(mounts(t), modes) {
		v := make(t)
		t.Run(v.Name, func(t *testing.T) { t.Parallel(); test(t, v) })
	}
}

// modes removes the owner's write permission on the folder and its files.
func modes(t *testing.T) Volume {
	dir := folder(t)
	set := func(of, in os.FileMode) func(*testing.T) {
		return func(t *testing.T) {
			files, err := os.ReadDir(dir)
			for _, f := range files {
				err = errors.Join(err, os.Chmod(filepath.Join(dir, f.Name()), in))
			}
			if err = errors.Join(err, os.Chmod(dir, of)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Volume{"not permitted", dir, "permission denied", set(0o500, 0o400), set(0o700, 0o600)}
}

// folder makes a folder that the process owns and can reach.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := os.Chmod(filepath.Dir(dir), 0o755) // TempDir's parent is 0700
	if os.Getuid() == 0 {
		err = errors.Join(err, os.Chown(dir, nobody, nobody))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Process is this test binary, running as a program, and its log.
type Process struct {
	cmd *exec.Cmd
	log logBuffer
}

// Start runs this test binary with these variables, as nobody when the user is
// root.
func Start(t *testing.T, env ...string) *Process {
	t.Helper()
	path := filepath.Join(folder(t), "program")
	if err := copyProgram(path); err != nil {
		t.Fatal(err)
	}
	p := &Process{cmd: exec.Command(path)}
	p.cmd.Env, p.cmd.Stderr = env, &p.log
	if os.Getuid() == 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait() // it was killed
		}
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p
}

// copyProgram copies the test binary to a folder where its new owner can run it:
// go test builds into a folder that only the user may enter.
func copyProgram(path string) error {
	from, err := os.Open(os.Args[0])
	if err != nil {
		return err
	}
	defer from.Close()
	// A process that another test forks while the file is open for writing would
	// hold it for a moment, and it could not be executed: text file busy.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// Terminate sends SIGTERM and returns the exit status.
func (p *Process) Terminate(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait() // the exit status is in ProcessState
	return p.cmd.ProcessState.ExitCode()
}

// Exit waits for a process that ends by itself and returns its exit status.
func (p *Process) Exit() int {
	_ = p.cmd.Wait() // the exit status is in ProcessState
	return p.cmd.ProcessState.ExitCode()
}

// Log is what the process has logged so far.
func (p *Process) Log() string { return p.log.String() }

// Await waits until the process has logged text.
func (p *Process) Await(t *testing.T, text string) {
	t.Helper()
	wait(t, "the log line "+text, func() bool { return strings.Contains(p.Log(), text) })
}

// URLs waits until the process listens and returns its public and operator URLs.
func (p *Process) URLs(t *testing.T) (base, ops string) {
	t.Helper()
	listening := regexp.MustCompile(`"msg":"listening".*"addr":"([^"]*)","ops_addr":"([^"]*)"`)
	p.Await(t, `"listening"`)
	m := listening.FindStringSubmatch(p.Log())
	if m == nil {
		t.Fatalf("no addresses in the log:\n%s", p.Log())
	}
	return "http://" + m[1], "http://" + m[2]
}

// Count is the number of log lines that contain text.
func (p *Process) Count(text string) (n int) {
	for line := range strings.Lines(p.Log()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// AwaitReady waits until /readyz below base is 200.
func AwaitReady(t *testing.T, base string) {
	t.Helper()
	wait(t, "readiness", func() bool { status, _, _ := Call(t, "GET", base+"/readyz", "", ""); return status == 200 })
}

// Call returns status, Retry-After and body; status 0 when there is no answer.
func Call(t *testing.T, method, url, contentType, body string) (status int, retryAfter, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Close = true // leaves no goroutine behind

	resp, err := http.DefaultClient.Do(req) //nolint:forbidigo // only tests use this package
	if err != nil {
		return 0, "", err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(text)
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
}

// logBuffer is written by the process and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
