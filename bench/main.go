// Command bench prints the figures of taskwire as ratios against a bare
// yardstick measured in the same run, on the same machine and with the same sink:
//
//	go run ./bench              all sections but commits, fetch and storm, which need Java
//	go run ./bench bridge e2e   only those named
//
// Sections: bridge (deliveries against a plain net/http client), batch (the same
// in batches against single posts), restart (SIGKILL and an immediate restart of the bridge), latency (Kafka ack to
// sink against a bare poll-and-post loop), audit (acknowledged appends against
// a bare batched append and fsync), create (acknowledged changes), e2e (201
// received to entry on disk), memory (of the bridge with a backlog), commits
// (their load on a real Apache Kafka, and what is posted again after a SIGKILL)
// and fetch (of many subscriptions of one topic), storm (half a million events
// while bridges join, stop and die; fails when one is lost or out of order).
//
// The services run in processes of their own, so that their CPU time can be
// measured; the embedded broker, the sinks and the load run in this one.
// Compare ratios between machines, not absolute figures.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

type section struct {
	name  string
	run   func(context.Context, *rig) error
	named bool // runs only when it is named: it needs a real Apache Kafka
}

var sections = []section{
	{name: "bridge", run: benchBridge}, {name: "batch", run: benchBatch}, {name: "restart", run: benchRestart}, {name: "latency", run: benchLatency},
	{name: "audit", run: benchAudit}, {name: "create", run: benchCreate}, {name: "e2e", run: benchEndToEnd}, {name: "memory", run: benchMemory},
	{name: "commits", run: benchCommits, named: true}, {name: "fetch", run: benchFetch, named: true},
	{name: "storm", run: benchStorm, named: true},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "-role" {
		exit(yardstick(os.Args[2], os.Args[3:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, os.Args[1:]))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, only []string) error {
	for _, name := range only {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("unknown section %q: choose from bridge, restart, latency, audit, create, e2e, memory, commits, fetch, storm", name)
		}
	}
	dir, err := os.MkdirTemp("", "taskwire-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &rig{dir: dir}
	defer r.close()
	if err := r.build(ctx); err != nil {
		return err
	}
	for _, s := range sections {
		if s.named && len(only) == 0 || len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		fmt.Printf("\n== %s\n", s.name)
		if err := s.run(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// rig owns the built programs and every process started from them.
type rig struct {
	dir     string
	self    string // this program, for the yardsticks
	running []*proc
}

func (r *rig) build(ctx context.Context) error {
	fmt.Println("building the programs")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", r.dir+"/", "./taskapi", "./bridge", "./auditor", "./bench").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	r.self = filepath.Join(r.dir, "bench")
	return nil
}

func (r *rig) close() {
	for _, p := range r.running {
		_ = p.kill() // the run has failed, or they have ended
	}
}

// sub makes a fresh folder for one measurement.
func (r *rig) sub(name string) string {
	dir, err := os.MkdirTemp(r.dir, name+"-")
	if err != nil {
		panic(err) // the temporary folder exists
	}
	return dir
}

// report prints a line: what was measured, the figure, its ratio to the yardstick, and the goal.
func report(what, figure string, ratio float64, goal string) {
	fmt.Printf("  %-58s %16s   %6.2f x   (goal %s)\n", what, figure, ratio, goal)
}

func note(what, figure string) { fmt.Printf("  %-58s %16s\n", what, figure) }

func rate(n int, seconds float64) string { return fmt.Sprintf("%.0f/s", float64(n)/seconds) }

func join(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
