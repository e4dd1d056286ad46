//go:build cluster

package acceptance_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// visitor calls the Task API through its Service, from the node and without repeats: a
// forwarded port leads to one pod and does not show what the Service does.
type visitor struct {
	in  io.WriteCloser
	out *bufio.Scanner

	mu             sync.Mutex
	calls, without int   // since the last look: all, and those without a 200; guarded by mu
	err            error // the end of the command on the node; guarded by mu
}

func startVisitor(t *testing.T) *visitor {
	address, err := kubectl(t.Context(), "", "get", "service", "taskapi", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	call := fmt.Sprintf(`while read -r _; do curl -s -o /dev/null -m 5 -w '%%{http_code}\n' 'http://%s:8000/tasks?limit=1' || true; done`, address)
	cmd, err := onNode(context.WithoutCancel(t.Context()), "bash", "-c", call)
	if err != nil {
		t.Fatal(err)
	}
	v := &visitor{}
	out, err := cmd.StdoutPipe()
	if err == nil {
		v.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	v.out = bufio.NewScanner(out)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); v.run(ctx, cmd) }()
	t.Cleanup(func() { cancel(); <-done })
	return v
}

// run calls ten times a second; the command ends when its input does.
func (v *visitor) run(ctx context.Context, cmd *exec.Cmd) {
	next := time.NewTicker(100 * time.Millisecond)
	defer next.Stop()
	for ctx.Err() == nil && v.once() {
		select {
		case <-next.C:
		case <-ctx.Done():
		}
	}
	_ = v.in.Close()
	_ = cmd.Wait()
}

func (v *visitor) once() bool {
	_, err := io.WriteString(v.in, "\n")
	answered := err == nil && v.out.Scan()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !answered {
		v.err = errors.Join(errors.New("calls from the node ended"), err, v.out.Err())
		return false
	}
	v.calls++
	if strings.TrimSpace(v.out.Text()) != "200" {
		v.without++
	}
	return true
}

// look returns how many calls there were since the last look, and how many had no 200.
func (v *visitor) look(t *testing.T) (calls, without int) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		t.Fatal(v.err)
	}
	calls, without = v.calls, v.without
	v.calls, v.without = 0, 0
	return calls, without
}
