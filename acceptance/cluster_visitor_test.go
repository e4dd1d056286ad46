//go:build cluster

package acceptance_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// visitor calls the Task API through its Service, from the node and without repeats: a
// forwarded port leads to one pod and does not show what the Service does.
type visitor struct {
	address string

	mu      sync.Mutex
	calls   int      // since the last look; guarded by mu
	without []string // those of them without a 200: status and curl's exit code; guarded by mu
}

func startVisitor(t *testing.T) *visitor {
	address, err := kubectl(t.Context(), "", "get", "service", "taskapi", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	v := &visitor{address: address}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := v.visit(ctx); err != nil && ctx.Err() == nil {
				t.Logf("calls from the node begin anew: %v", err)
				pause(ctx)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return v
}

// visit calls ten times a second until ctx or the connection to the node ends. The
// command on the node ends when its input does.
func (v *visitor) visit(ctx context.Context) error {
	call := fmt.Sprintf(`while read -r _; do curl -s -o /dev/null -m 30 -w '%%{http_code} %%{exitcode}\n' 'http://%s:8000/tasks?limit=1' || true; done`, v.address)
	cmd, err := onNode(context.WithoutCancel(ctx), "bash", "-c", call)
	if err != nil {
		return err
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines, next := bufio.NewScanner(out), time.NewTicker(100*time.Millisecond)
	defer next.Stop()
	for ctx.Err() == nil {
		if _, err := io.WriteString(in, "\n"); err != nil || !lines.Scan() {
			break
		}
		v.count(lines.Text())
		select {
		case <-next.C:
		case <-ctx.Done():
		}
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil || ctx.Err() == nil {
		return fmt.Errorf("%s: %w", &complaints, errors.Join(err, lines.Err(), io.ErrUnexpectedEOF))
	}
	return nil
}

// count takes the status and curl's exit code.
func (v *visitor) count(answer string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
	if answer != "200 0" {
		v.without = append(v.without, answer)
	}
}

// look returns how many calls there were since the last look, and those without a 200.
func (v *visitor) look() (calls int, without []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	calls, without = v.calls, v.without
	v.calls, v.without = 0, nil
	return calls, without
}
