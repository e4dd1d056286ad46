package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// proc is one started program. Its log goes to a file beside its data.
type proc struct {
	cmd  *exec.Cmd
	url  string // public address
	done bool
}

// service starts one of the built programs on free ports and waits until it is ready.
func (r *rig) service(ctx context.Context, name string, env ...string) (*proc, error) {
	addr, ops := freeAddr(), freeAddr()
	p, err := r.start(name, nil, append(env, "LISTEN_ADDR="+addr, "OPS_ADDR="+ops, "LOG_FORMAT=json")...)
	if err != nil {
		return nil, err
	}
	p.url = "http://" + addr
	return p, await(ctx, p.url+"/readyz")
}

// yardstick starts this program again in another role; addr is where it serves, if it does.
func (r *rig) yardstick(role string, args ...string) (*proc, error) {
	return r.start("bench", append([]string{"-role", role}, args...))
}

func (r *rig) start(name string, args []string, env ...string) (*proc, error) {
	log, err := os.Create(filepath.Join(r.sub("log"), name))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(r.dir, name), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = log
	cmd.Dir = filepath.Dir(log.Name())
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &proc{cmd: cmd}
	r.running = append(r.running, p)
	return p, nil
}

func (p *proc) kill() { p.end(syscall.SIGKILL) }

// stop asks for a drain and returns the CPU seconds the program used in all.
func (p *proc) stop() float64 {
	p.end(syscall.SIGTERM)
	return p.cpu()
}

func (p *proc) end(sig syscall.Signal) {
	if p.done {
		return
	}
	p.done = true
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait() // the exit status of a killed process says nothing
}

func (p *proc) cpu() float64 {
	return (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds()
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // a machine without a free port cannot run this at all
	}
	defer l.Close()
	return l.Addr().String()
}

// await returns when url answers 200.
func await(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", url, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
