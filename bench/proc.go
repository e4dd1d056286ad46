package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
)

// proc is one started program.
type proc struct {
	*child.Process
	url string // public address
}

// service starts one of the built programs on free ports and waits until it is ready.
func (r *rig) service(ctx context.Context, name string, env ...string) (*proc, error) {
	addr, ops := freeport.Addr(), freeport.Addr()
	p, err := r.start(name, nil, append(env, "LISTEN_ADDR="+addr, "OPS_ADDR="+ops, "LOG_FORMAT=json")...)
	if err != nil {
		return nil, err
	}
	p.url = "http://" + addr
	return p, p.ready(ctx)
}

// yardstick starts this program again in another role.
func (r *rig) yardstick(role string, args ...string) (*proc, error) {
	return r.start("bench", append([]string{"-role", role}, args...))
}

// start leaves the log of the program in a folder of its own.
func (r *rig) start(name string, args []string, env ...string) (*proc, error) {
	dir := r.sub("log")
	cmd := exec.Command(filepath.Join(r.dir, name), args...)
	cmd.Env, cmd.Dir = append(os.Environ(), env...), dir
	started, err := child.Start(cmd, filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	p := &proc{Process: started}
	r.running = append(r.running, p)
	return p, nil
}

func (p *proc) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.AwaitReady(ctx, p.url+"/readyz")
}

func (p *proc) kill() error { return p.End(syscall.SIGKILL, time.Minute) }

// stop waits for a drain and returns the CPU seconds the program used in all.
func (p *proc) stop() (float64, error) {
	if err := p.End(syscall.SIGTERM, time.Minute); err != nil {
		return 0, err
	}
	return p.cpu(), nil
}

// cpu waits for the program to end.
func (p *proc) cpu() float64 {
	state := p.State()
	return (state.UserTime() + state.SystemTime()).Seconds()
}
