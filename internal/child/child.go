// Package child runs other programs as child processes, for the tests and tools
// that stop, kill and restart the services.
//
// On Linux a child dies with this program, however this program dies, and Ctrl-C
// reaches this program alone, which then stops its children in order. Elsewhere
// a child outlives a parent that is killed with SIGKILL.
//
// The servers of kafkatest and pgtest are no Process: all tests of a process share
// one, so no goroutine may wait for it when goleak looks. A Guard ends it on every
// system and removes its folder as well.
package child

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// Process is a started program. Its methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed after err is set
	err  error
}

// Start starts cmd and appends all that it prints to the file log. One
// goroutine waits for the process; End it, or receive from Done, before
// leaving.
func Start(cmd *exec.Cmd, log string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the child has its own descriptor
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = f, f, attributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// Pid is the number of the process, which may have ended.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end and returns nil or its exit status as an
// *exec.ExitError.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// State waits for the process to end and says how it did.
func (p *Process) State() *os.ProcessState {
	<-p.done
	return p.cmd.ProcessState
}

// Signal sends sig. A process that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, filepath.Base(p.cmd.Path), err)
	}
	return nil
}

// End sends sig and waits for the process to end; Wait then has its exit
// status. A stopped process is continued so that it sees the signal. A process
// that still runs after timeout is killed, and that is an error.
func (p *Process) End(sig syscall.Signal, timeout time.Duration) error {
	if err := errors.Join(p.Signal(sig), p.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.done
		return fmt.Errorf("%s was still running %v after %v: killed, see %s", filepath.Base(p.cmd.Path), timeout, sig, p.log)
	}
}

// AwaitReady returns when a GET of url is answered with 200. It gives up when
// ctx or the process ends.
func (p *Process) AwaitReady(ctx context.Context, url string) error {
	for {
		err := Ready(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready (%v): see %s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, p.log)
		default:
		}
		if retry.Pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready: %w: see %s", filepath.Base(p.cmd.Path), err, p.log)
		}
	}
}

// Ready returns nil when a GET of url is answered with 200 within a second.
func Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// A kept connection would outlive the process that it leads to.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}
