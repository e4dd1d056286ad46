// Command bench measures taskwire. Each figure stands beside a bare yardstick
// that was measured in the same run, on the same machine and against the same
// sink, so that the ratio says something on any machine:
//
//	go run ./bench                    all sections but those marked *
//	go run ./bench bridge audit       only those named
//	KAFKA_REAL=1 go run ./bench path  on an Apache Kafka (needs Java) instead of the embedded broker
//
// Flags come before the names:
//
//	-write            put the tables and charts into docs/benchmarks.md
//	-short            small counts, one repetition: shows that everything runs, not how fast
//	-base COMMIT      build the services of that commit, too, and measure both in turn
//	-repeat N         repetitions; the figures are their median (3)
//	-entries N        in the log of the section auditor-large (10,000,000)
//	-tasks N          in the sections taskapi-large and postgres (1,000,000)
//	-profile FOLDER   keep a CPU profile of each service in the sections path, audit and create
//
// Sections:
//
//	bridge         deliveries against a plain net/http client, and their CPU
//	batch          deliveries in batches against single posts of that client
//	partitions     deliveries of 12 partitions against that client with 12 x 64 connections
//	latency        from producing to the sink, against a bare poll-and-post loop
//	restart        SIGKILL and an immediate restart of the bridge
//	outage         a sink that answered 503 and is back
//	idle           the bridge with 200 partitions and nothing to do
//	audit          acknowledged appends against a bare append and fsync
//	create         acknowledged creates against the same, and against producing with acks=all
//	e2e            201 received to the entry on disk, against one Kafka round trip and two fsyncs
//	path           the whole system under 64 clients on one machine
//	avro           bytes and CPU of an event in Avro against one in JSON
//	tree           the proof of an entry, and verifying all of a log
//	auditor-large  the auditor with a long log
//	taskapi-large  the Task API with many tasks and events
//	postgres       Task API and auditor with PostgreSQL, many tasks and entries *
//	memory         of the bridge with a backlog *
//	commits        their load on Kafka, and what is posted again after a SIGKILL *, needs Java
//	fetch          many subscriptions of one topic *, needs Java
//	scale          two or three of each service with 12 partitions, against one of each; all on
//	               PostgreSQL, with KAFKA_REAL=1 on three brokers against one *
//	storm          half a million events while bridges join, stop and die; fails when
//	               one is lost or out of order *, needs Java
//
// The services and the broker run in processes of their own; the sinks and the
// clients run in this one. Progress is on stderr, tables are on stdout.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A section is one table. To add one: write its function in a file of its own
// and add a line here and in the comment above.
type section struct {
	name     string
	title    string
	run      func(context.Context, *rig, *table) error // one repetition
	named    bool                                      // runs only when it is named
	linux    bool                                      // reads /proc
	document string                                    // where its table goes; "" is docs/benchmarks.md
}

var sections = []section{
	{name: "bridge", run: benchBridge, title: "Bridge: one partition"},
	{name: "batch", run: benchBatch, title: "Bridge: batches"},
	{name: "partitions", run: benchPartitions, title: "Bridge: 12 partitions"},
	{name: "latency", run: benchLatency, title: "Bridge: latency"},
	{name: "restart", run: benchRestart, title: "Bridge: killed and restarted"},
	{name: "outage", run: benchOutage, title: "Bridge: the sink was down"},
	{name: "idle", run: benchIdle, title: "Bridge: idle", linux: true},
	{name: "audit", run: benchAudit, title: "Auditor: appends"},
	{name: "create", run: benchCreate, title: "Task API: creates"},
	{name: "e2e", run: benchEndToEnd, title: "Whole path: latency"},
	{name: "path", run: benchPath, title: "Whole path: throughput"},
	{name: "avro", run: benchAvro, title: "Events in Avro"},
	{name: "tree", run: benchTree, title: "Auditor: proofs"},
	{name: "auditor-large", run: benchAuditorLarge, title: "Auditor: a long log", linux: true},
	{name: "taskapi-large", run: benchTaskAPILarge, title: "Task API: many tasks", linux: true},
	{name: "postgres", run: benchPostgresLarge, named: true, title: "PostgreSQL: many tasks, a long log", linux: true},
	{name: "memory", run: benchMemory, named: true, title: "Bridge: memory with a backlog", linux: true},
	{name: "commits", run: benchCommits, named: true, title: "Bridge: commits", linux: true},
	{name: "fetch", run: benchFetch, named: true, title: "Bridge: fetches", linux: true},
	{name: "scale", run: benchScale, named: true, linux: true, title: "Several of each against one of each", document: "docs/scale.md"},
	{name: "storm", run: benchStorm, named: true, title: "Bridge: members come and go"},
}

// options are the flags.
type options struct {
	write, short   bool
	base           string
	repeat         int
	entries, tasks int
	profile        string
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "-role" {
		exit(yardstick(os.Args[2], os.Args[3:]))
	}
	var o options
	flag.BoolVar(&o.write, "write", false, "")
	flag.BoolVar(&o.short, "short", false, "")
	flag.StringVar(&o.base, "base", "", "")
	flag.IntVar(&o.repeat, "repeat", 3, "")
	flag.IntVar(&o.entries, "entries", 10_000_000, "")
	flag.IntVar(&o.tasks, "tasks", 1_000_000, "")
	flag.StringVar(&o.profile, "profile", "", "")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "the manual is the comment of bench/main.go: go doc ./bench") }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, o, flag.Args()))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options, only []string) (err error) {
	if o.short && o.write {
		return errors.New("-short measures too little for -write")
	}
	if o.short {
		o.repeat = 1
	}
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, r.lastLines())
		}
		err = errors.Join(err, r.close())
	}()
	for _, s := range chosen {
		t, err := r.measure(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Print(t.text())
		if o.write {
			if err := publish(s, t, r.machine()); err != nil {
				return err
			}
		}
	}
	return nil
}

func choose(only []string) ([]section, error) {
	var chosen []section
	for _, s := range sections {
		if !slices.Contains(only, s.name) && (len(only) > 0 || s.named) {
			continue
		}
		if s.linux && runtime.GOOS != "linux" {
			fmt.Fprintf(os.Stderr, "left out: %s needs Linux\n", s.name)
			continue
		}
		chosen = append(chosen, s)
	}
	for _, name := range only {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			var names []string
			for _, s := range sections {
				names = append(names, s.name)
			}
			return nil, fmt.Errorf("unknown section %q: choose from %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

// measure repeats a section. With a base both builds take turns, so that what
// changes on the machine meanwhile meets both.
func (r *rig) measure(ctx context.Context, s section) (*table, error) {
	t := &table{title: s.title, base: r.options.base}
	for i := range r.options.repeat {
		r.progress = fmt.Sprintf("%s %d/%d", s.name, i+1, r.options.repeat)
		r.programs, t.ofBase = r.dir, false
		if err := s.run(ctx, r, t); err != nil {
			return nil, err
		}
		if t.base == "" {
			continue
		}
		r.progress += " " + t.base
		r.programs, t.ofBase = filepath.Join(r.dir, "base"), true
		if err := s.run(ctx, r, t); err != nil {
			return nil, fmt.Errorf("the services of %s: %w", t.base, err)
		}
	}
	return t, nil
}
