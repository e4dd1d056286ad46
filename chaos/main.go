// Chaos breaks the system on purpose and judges what is left: does every change
// that was answered with 2xx stand in the audit log exactly once and in order?
//
//	go run ./chaos run      start everything, break it at random, drain, judge
//	go run ./chaos sweep    kill the right process at each step of internal/failpoint
//	go run ./chaos check DIR  judge a kept run again; -json for the whole report
//	go run ./chaos mutants  each known mistake must turn a short run red
//
// Flags of run:
//
//	-duration 2m     load and faults; what is left is then drained, up to -drain
//	-drain 90s       how long the system may take to catch up before it is STUCK
//	-seed N          of the choice of faults and operations (random, printed)
//	-dir DIR         where everything is kept; without it a temporary folder that
//	                 goes when the verdict is GREEN
//	-kafka auto      real (Apache Kafka, needs Java), embedded, or auto: real if there is a Java
//	-workers 8       clients, each with a history of its own
//	-rate 20         operations a second of each client
//	-faults LIST     kinds to choose from (all):
//	                   kill, term, stop   one process; loop: ten kills in a row;
//	                   pair: two at once; all: every process but Kafka
//	                   member             a third bridge joins and leaves
//	                   broker             Kafka is killed, stopped or shut down
//	                   sink, notices      the auditor, the notifier answer nonsense
//	                   disk               the auditor's disk is full (Linux, root)
//	                   latency, bandwidth, slow-close, black-hole, reset, cut
//	                                      of the connection between two of client, taskapi,
//	                                      kafka, bridge, notifier and auditor
//	-answers LIST    what a broken sink does: 500,503,302,hang,cut,cut-after (all)
//	-bin DIR         programs to test instead of those of this tree
//	-acks N          the least number of acknowledged changes (2 a second)
//
// Flags of sweep: -times 3 of each point, -points R2,R3 (all), and -seed, -dir and
// -kafka as above. A point that was not hit as often is RED.
//
// Flags of mutants: -only LIST of names (all), -repeat 1 runs of each, -control to
// see the tree as it is GREEN in the same runs, -duration 25s, -kafka embedded, and
// -seed and -dir as above.
//
// Exit 0: GREEN. Exit 1: RED, INVALID or a fault of the run. Exit 2: wrong flags.
// Ctrl-C stops all that was started.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

//go:embed main.go
var source string

var errVerdict = errors.New("the verdict is not GREEN")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := command(ctx, os.Args[1:], os.Stdout)
	var usage *usageError
	switch {
	case err == nil:
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error()+"\n\n"+manual())
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
		os.Exit(1)
	}
}

type usageError struct{ reason string }

func (e *usageError) Error() string { return e.reason }

func manual() string {
	text, _, _ := strings.Cut(source, "\npackage main")
	return strings.ReplaceAll(strings.ReplaceAll(text, "//\t", "  "), "//", "")
}

func command(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return &usageError{"say run, sweep, check or mutants"}
	}
	switch args[0] {
	case "run":
		return runCommand(ctx, args[1:], stdout)
	case "check":
		return checkCommand(args[1:], stdout)
	case "sweep":
		return sweepCommand(ctx, args[1:], stdout)
	case "mutants":
		return mutantsCommand(ctx, args[1:], stdout)
	case "broker": // what run starts as its embedded broker
		return brokerCommand(ctx, args[1:])
	}
	return &usageError{"no command is called " + args[0]}
}

// settings are the flags of run.
type settings struct {
	Duration, Drain time.Duration
	Seed            uint64
	Dir, Kafka, Bin string
	Workers, Acks   int
	Rate            float64
	Faults, Answers string
	First           []string // of the faults, each alone

	Points  string         // of a sweep
	Strikes []strike       // of the points, instead of faults at random
	Times   int            // of each strike
	Tags    string         // of the build
	Need    map[string]int // of a sweep, instead of what a run needs
	Expect  []string       // rules that a mutant breaks
}

func parse(name string, args []string, flags func(*flag.FlagSet)) ([]string, error) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	flags(set)
	if err := set.Parse(args); err != nil {
		return nil, &usageError{err.Error()}
	}
	return set.Args(), nil
}

func runCommand(ctx context.Context, args []string, stdout io.Writer) error {
	s := settings{First: sinkFaults}
	rest, err := parse("run", args, func(f *flag.FlagSet) {
		f.DurationVar(&s.Duration, "duration", 2*time.Minute, "")
		f.DurationVar(&s.Drain, "drain", 90*time.Second, "")
		f.Uint64Var(&s.Seed, "seed", uint64(time.Now().UnixNano())%1e9, "")
		f.StringVar(&s.Dir, "dir", "", "")
		f.StringVar(&s.Kafka, "kafka", "auto", "")
		f.StringVar(&s.Bin, "bin", "", "")
		f.IntVar(&s.Workers, "workers", 8, "")
		f.IntVar(&s.Acks, "acks", 0, "")
		f.Float64Var(&s.Rate, "rate", 20, "")
		f.StringVar(&s.Answers, "answers", allAnswers, "")
		f.StringVar(&s.Faults, "faults", allFaults, "")
	})
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return &usageError{"run takes flags only"}
	case s.Duration < 10*time.Second || s.Workers < 1 || s.Rate <= 0:
		return &usageError{"-duration is at least 10s, -workers and -rate are more than 0"}
	}
	for _, kind := range strings.Split(s.Faults, ",") {
		if kind != "" && kinds[kind] == nil {
			return &usageError{"-faults: no kind is called " + kind}
		}
	}
	for _, answer := range strings.Split(s.Answers, ",") {
		if !strings.Contains(","+allAnswers+",", ","+answer+",") {
			return &usageError{"-answers: a sink cannot answer " + answer}
		}
	}
	if s.Kafka, err = chooseKafka(s.Kafka); err != nil {
		return err
	}
	rep, err := run(ctx, s, stdout)
	if err != nil {
		return err
	}
	if rep.Verdict != check.Green {
		return errVerdict
	}
	return nil
}

func chooseKafka(asked string) (string, error) {
	switch asked {
	case "real", "embedded":
		return asked, nil
	case "auto":
		if _, err := exec.LookPath("java"); err == nil {
			return "real", nil
		}
		return "embedded", nil
	}
	return "", &usageError{"-kafka is auto, real or embedded"}
}

func checkCommand(args []string, stdout io.Writer) error {
	var asJSON bool
	rest, err := parse("check", args, func(f *flag.FlagSet) { f.BoolVar(&asJSON, "json", false, "") })
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return &usageError{"check takes the folder of one run"}
	}
	rep, err := check.Dir(rest[0])
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = rep.Text(stdout)
	}
	if err == nil && rep.Verdict != check.Green {
		err = errVerdict
	}
	return err
}
