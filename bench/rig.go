package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// rig owns the built programs and every process started from them.
type rig struct {
	options  options
	dir      string // temporary; the programs of this tree, and below base those of the base
	programs string // the folder of the services that are measured now
	progress string // which repetition of what
	running  []*proc
	real     *kafkatest.Real // nil until it is needed
	realDir  string
	quorum   *kafkatest.Quorum // nil unless it runs
	topics   int
	prepared map[string]string // folders that repetitions share, by what is in them
}

func newRig(ctx context.Context, o options) (*rig, error) {
	dir, err := os.MkdirTemp("", "taskwire-bench-")
	if err != nil {
		return nil, err
	}
	r := &rig{options: o, dir: dir, programs: dir, prepared: map[string]string{}}
	if err := r.build(ctx); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) build(ctx context.Context) error {
	r.say("building the programs")
	if err := build(ctx, ".", r.dir, "./taskapi", "./bridge", "./notifier", "./auditor", "./bench"); err != nil || r.options.base == "" {
		return err
	}
	r.say("building those of %s", r.options.base)
	tree := filepath.Join(r.dir, "tree")
	if out, err := exec.CommandContext(ctx, "git", "worktree", "add", "--detach", tree, r.options.base).CombinedOutput(); err != nil {
		return fmt.Errorf("check out %s: %w\n%s", r.options.base, err, out)
	}
	return errors.Join(
		build(ctx, tree, filepath.Join(r.dir, "base"), "./taskapi", "./bridge", "./notifier", "./auditor"),
		exec.CommandContext(ctx, "git", "worktree", "remove", "--force", tree).Run())
}

func build(ctx context.Context, tree, into string, packages ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", into + "/"}, packages...)...)
	cmd.Dir = tree
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// lastLines are those of the program that was started last, whose failure it may be.
func (r *rig) lastLines() string {
	if len(r.running) == 0 {
		return ""
	}
	text, err := os.ReadFile(r.running[len(r.running)-1].log)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(text), "\n")
	return "last lines of the program started last:\n" + strings.Join(lines[max(0, len(lines)-10):], "")
}

func (r *rig) close() error {
	for _, p := range r.running {
		_ = p.kill() // the run has failed, or they have ended
	}
	var err error
	if r.real != nil {
		err = r.real.Kill()
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// say reports progress.
func (r *rig) say(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if r.progress != "" {
		what = r.progress + ": " + what
	}
	fmt.Fprintln(os.Stderr, what)
}

// n is how many of something a section uses: all of them, or enough to see that it works.
func (r *rig) n(all int) int {
	if r.options.short {
		return max(all/50, min(all, 200))
	}
	return all
}

// window is how long a section watches.
func (r *rig) window(d time.Duration) time.Duration {
	if r.options.short {
		return min(d, time.Second)
	}
	return d
}

// sub makes a fresh folder for one measurement.
func (r *rig) sub(name string) string {
	dir, err := os.MkdirTemp(r.dir, name+"-")
	if err != nil {
		panic(err) // the temporary folder exists
	}
	return dir
}

// machine describes what was measured on what.
func (r *rig) machine() string {
	cpu := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	broker := "embedded broker"
	if realKafka() {
		broker = "Apache Kafka " + kafkatest.Version
	}
	return fmt.Sprintf("%s, %s, %s/%s, %s, %d cores, %s, %s", time.Now().UTC().Format(time.DateOnly), commit(),
		runtime.GOOS, runtime.GOARCH, cpu, runtime.NumCPU(), runtime.Version(), broker)
}

// commit says what was built. The documents may differ from it: this run writes there.
func commit() string {
	head, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown commit"
	}
	changed, err := exec.Command("git", "status", "--porcelain", "--", ".", ":!docs").Output()
	if err != nil || len(changed) > 0 {
		return "commit " + strings.TrimSpace(string(head)) + " with changes"
	}
	return "commit " + strings.TrimSpace(string(head))
}

// proc is one started program.
type proc struct {
	*child.Process
	url, ops string // public address and operator address
	log      string // path
}

// service starts one of the built programs on free ports and waits until it is ready.
func (r *rig) service(ctx context.Context, name string, env ...string) (*proc, error) {
	p, err := r.launch(name, env...)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, 30*time.Second)
}

// launch does not wait.
func (r *rig) launch(name string, env ...string) (*proc, error) {
	addr, ops := freeport.Addr(), freeport.Addr()
	p, err := r.start(filepath.Join(r.programs, name), nil, append([]string{"LISTEN_ADDR=" + addr, "OPS_ADDR=" + ops, "LOG_FORMAT=json", "OPS_PPROF=true"}, env...)...)
	if err != nil {
		return nil, err
	}
	p.url, p.ops = "http://"+addr, "http://"+ops
	return p, nil
}

// yardstick starts this program again in another role.
func (r *rig) yardstick(role string, args ...string) (*proc, error) {
	return r.start(filepath.Join(r.dir, "bench"), append([]string{"-role", role}, args...))
}

// server starts a yardstick that listens, and waits until it answers.
func (r *rig) server(ctx context.Context, role string, args ...string) (*proc, error) {
	addr := freeport.Addr()
	p, err := r.yardstick(role, append([]string{addr}, args...)...)
	if err != nil {
		return nil, err
	}
	p.url = "http://" + addr
	return p, p.ready(ctx, 30*time.Second)
}

// start leaves the log of the program in a folder of its own.
func (r *rig) start(program string, args []string, env ...string) (*proc, error) {
	dir := r.sub("log")
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = append(os.Environ(), env...), dir
	log := filepath.Join(dir, filepath.Base(program))
	started, err := child.Start(cmd, log)
	if err != nil {
		return nil, err
	}
	p := &proc{Process: started, log: log}
	r.running = append(r.running, p)
	return p, nil
}

func (p *proc) ready(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
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
