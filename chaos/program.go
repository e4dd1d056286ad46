package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/retry"
)

// target is something that faults are injected into.
type target interface {
	Name() string
	// Signal sends a signal to the process, if one runs.
	Signal(sig syscall.Signal) error
	// Down ends it with sig and keeps it down until Up.
	Down(sig syscall.Signal) error
	Up() error
}

// program is one of this tree that is kept running: whenever it ends
// between Up and Down it is started again, as an orchestrator would.
type program struct {
	name, path string
	args       []string
	dir        string
	env        func(start int) ([]string, error)

	turn    sync.Mutex         // held by Up and Down, one at a time; guards what follows
	stop    context.CancelFunc // ends keepUp; nil when down
	stopped chan struct{}      // closed when keepUp has returned

	mu         sync.Mutex     // guards what follows
	child      *child.Process // nil when none runs
	starts     int
	unexpected int // exits between Up and Down
}

func (p *program) Name() string { return p.name }

func (p *program) Up() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.stop != nil {
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	c, err := p.start(ctx)
	if err != nil {
		stop()
		return err
	}
	stopped := make(chan struct{})
	p.stop, p.stopped = stop, stopped
	go func() {
		defer close(stopped)
		p.keepUp(ctx, c)
	}()
	return nil
}

// keepUp waits for the process and starts it again, until ctx ends.
func (p *program) keepUp(ctx context.Context, c *child.Process) {
	for {
		if c != nil {
			<-c.Done() // its log says why
			p.mu.Lock()
			p.child = nil
			if ctx.Err() == nil {
				p.unexpected++
			}
			p.mu.Unlock()
		}
		// A process that ends at once must not take all of the CPU.
		if retry.Pause(ctx, 200*time.Millisecond) != nil {
			return
		}
		c, _ = p.start(ctx) // tried again; a service that stays down is STUCK
	}
}

// start holds mu so that Down, which has ended ctx, sees the new process or
// prevents it.
func (p *program) start(ctx context.Context) (*child.Process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p.starts++
	env, err := p.env(p.starts)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir, cmd.Env = p.dir, append(env, "HOME="+p.dir)
	p.child, err = child.Start(cmd, filepath.Join(p.dir, p.name+".log"))
	return p.child, err
}

func (p *program) running() *child.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}

func (p *program) Signal(sig syscall.Signal) error {
	if c := p.running(); c != nil {
		return c.Signal(sig)
	}
	return nil
}

// Down returns when the process has ended and nothing starts it again.
func (p *program) Down(sig syscall.Signal) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.stop == nil {
		return nil
	}
	p.stop()
	var err error
	if c := p.running(); c != nil {
		err = c.End(sig, 30*time.Second)
	}
	<-p.stopped
	p.stop = nil
	return err
}

// pid is 0 when it is down.
func (p *program) pid() int {
	if c := p.running(); c != nil {
		return c.Pid()
	}
	return 0
}

func (p *program) started() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starts
}
