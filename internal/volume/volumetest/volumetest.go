// Package volumetest gives a real process a volume that it cannot use. Root may
// write everywhere, so when root runs the tests the process runs as another
// user, as it does in a pod.
package volumetest

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/taskwire/taskwire/internal/apptest"
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

// modes removes the owner's write permission on the folder, its folders and its files.
func modes(t *testing.T) Volume {
	dir := Folder(t)
	set := func(of, in os.FileMode) func(*testing.T) {
		return func(t *testing.T) {
			files, err := os.ReadDir(dir)
			for _, f := range files {
				mode := in
				if f.IsDir() {
					mode = of
				}
				err = errors.Join(err, os.Chmod(filepath.Join(dir, f.Name()), mode))
			}
			if err = errors.Join(err, os.Chmod(dir, of)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Volume{"not permitted", dir, "permission denied", set(0o500, 0o400), set(0o700, 0o600)}
}

// Folder makes a folder that the process owns and can reach.
func Folder(t *testing.T) string {
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

// Start runs this test binary with these variables, as nobody when the user is
// root.
func Start(t *testing.T, env ...string) *apptest.Process {
	t.Helper()
	path := filepath.Join(Folder(t), "program")
	if err := copyProgram(path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = env
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return apptest.Exec(t, cmd)
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

// StopWhileWaiting holds for every service that waits for its volume: a stop
// during the wait is clean. The volume must be one that start cannot use.
func StopWhileWaiting(t *testing.T, v Volume, start func() *apptest.Process) {
	t.Helper()
	v.Break(t)
	defer v.Fix(t)
	p := start()
	_, ops := p.URLs(t)
	if status, _, body := Call(t, "GET", ops+"/readyz", "", ""); status != 503 || !strings.Contains(body, v.Reason) {
		t.Errorf("GET /readyz = %d %q, want 503 with %q", status, body, v.Reason)
	}
	if status := p.Terminate(); status != 0 || p.Count(`"stopped"`) != 1 {
		t.Errorf("exit status after SIGTERM = %d with %d lines \"stopped\", want 0 with 1", status, p.Count(`"stopped"`))
	}
}

// AwaitReady waits until /readyz below base is 200.
func AwaitReady(t *testing.T, base string) {
	t.Helper()
	apptest.Await(t, "the service is ready", func() bool { status, _, _ := Call(t, "GET", base+"/readyz", "", ""); return status == 200 })
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
