package main

import (
	"context"
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

	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program, which stops them in order
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

// kafkaBroker is a real Apache Kafka as a target.
type kafkaBroker struct {
	*kafkatest.Real
	mu   sync.Mutex
	down bool
}

func (b *kafkaBroker) Name() string { return "broker" }

func (b *kafkaBroker) Signal(sig syscall.Signal) error { return b.Real.Signal(sig) }

func (b *kafkaBroker) Down(sig syscall.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	_ = b.Real.Signal(syscall.SIGCONT)
	if sig == syscall.SIGKILL {
		return b.Real.Kill()
	}
	return b.Real.Stop()
}

func (b *kafkaBroker) Up() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.down {
		return nil
	}
	b.down = false
	return b.Real.Restart()
}

// brokerCommand is the embedded broker in a process of its own, so that it can
// be killed. Its settings come as the others' do.
func brokerCommand(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return &usageError{"broker is for this program only"}
	}
	n, err := strconv.Atoi(os.Getenv("CHAOS_PARTITIONS"))
	if err != nil {
		return err
	}
	b, err := embedkafka.Start(embedkafka.Config{Addr: os.Getenv("CHAOS_BROKER"), DataDir: os.Getenv("CHAOS_DATA"),
		Topics: map[string]int{topic: n, deadLetters: 1}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return b.Close()
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
