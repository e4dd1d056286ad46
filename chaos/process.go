package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// target is something that faults are aimed at.
type target interface {
	Name() string
	// Signal sends a signal to the process that runs now, if one does.
	Signal(sig syscall.Signal) error
	// Kill ends it with sig and keeps it down until Up.
	Down(sig syscall.Signal) error
	Up() error
}

// process is one of our programs. It is started again whenever it ends without
// having been told to, as an orchestrator would.
type process struct {
	name, path string
	dir        string
	env        func(start int) ([]string, error)

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd  // nil when down
	ended  chan struct{}
	starts int
	wanted bool
	faults int // ends that nobody asked for
}

func (p *process) Name() string { return p.name }

func (p *process) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return p.start()
}

func (p *process) start() error {
	if p.cmd != nil {
		return nil
	}
	p.starts++
	env, err := p.env(p.starts)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path)
	if p.name == "broker" {
		cmd.Args = append(cmd.Args, "broker")
	}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, append(env, "HOME="+p.dir), log, log
	cmd.SysProcAttr = child() // Ctrl-C is for this program, which stops them in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go p.wait(cmd, p.ended)
	return nil
}

func (p *process) wait(cmd *exec.Cmd, ended chan struct{}) {
	_ = cmd.Wait() // how it ended is in its log
	p.mu.Lock()
	p.cmd = nil
	close(ended)
	again := p.wanted
	if again {
		p.faults++
	}
	p.mu.Unlock()
	if !again {
		return
	}
	time.Sleep(200 * time.Millisecond) // a restart loop must not eat the machine
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		_ = p.start() // a start that fails shows as STUCK
	}
}

func (p *process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	return p.cmd.Process.Signal(sig)
}

// pid is 0 when it is down.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *process) Down(sig syscall.Signal) error {
	p.mu.Lock()
	p.wanted = false
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%s did not end within 30 s of %v", p.name, sig)
	}
	return nil
}

// freePort is below the ports that systems take for outgoing connections, which
// could be gone when a service restarts.
func freePort() string {
	for {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(18000+rand.IntN(14000)))
		l, err := net.Listen("tcp", addr)
		if err == nil && l.Close() == nil {
			return addr
		}
	}
}
