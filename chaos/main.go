// Command chaos breaks the system on purpose and judges what is left: is every
// change that was answered with 2xx in the audit log exactly once and in order?
//
//	go run ./chaos run        start everything, inject random faults, drain, judge
//	go run ./chaos sweep      kill the right process at each step of internal/failpoint
//	go run ./chaos check DIR  judge a kept run again; -json for the whole report
//	go run ./chaos mutants    every known mistake must turn a short run RED
//
// Flags of run:
//
//	-duration 2m     load and faults; the drain follows
//	-drain 90s       how long the system may take to catch up before it is STUCK
//	-seed N          of the choice of faults and operations (random, printed);
//	                 when it is even the bridge delivers in batches
//	-dir DIR         where everything is kept; without it a temporary folder that
//	                 is removed when the verdict is GREEN
//	-kafka auto      real (Apache Kafka, needs Java), embedded, or auto: real if there is a Java
//	-brokers 1       or 3, which needs a real Kafka: replication factor 3,
//	                 min.insync.replicas 2, and all bridges are static members
//	-database sqlite or postgres: a real server, with two Task APIs and two auditors on it
//	-encoding json   or avro: events in Avro, with a Schema Registry in memory or, with a
//	                 real Kafka, a real one that keeps its schemas there
//	-scale           12 partitions, 3 bridges, 2 Task APIs, auditors and notifiers on
//	                 PostgreSQL and, unless -kafka is embedded, 3 brokers
//	-workers 8       clients, each with a history of its own
//	-rate 20         operations a second of each client
//	-faults LIST     kinds to choose from (all):
//	                   kill, term, stop   one process; loop: ten kills in a row;
//	                   pair: two at once; all: every process but Kafka
//	                   reload             a bridge's configuration changes, and is bad for a while
//	                   member             an extra bridge joins and leaves
//	                   broker             Kafka is killed, stopped or shut down
//	                   sink, notices      the auditor, the notifier give wrong answers
//	                   redrive            the notifier refuses, and a bridge redrives the dead letters, or is killed at it
//	                   pause              a subscription is paused, bridges are killed, and it is
//	                                      resumed; one that starts meanwhile must post nothing to it
//	                   intruder           posts forged events to the auditor, unsigned
//	                   disk               the auditor's disk is full (Linux, root)
//	                   latency, bandwidth, slow-close, black-hole, reset, cut
//	                                      of the connection between two of client, taskapi,
//	                                      kafka, bridge, notifier and auditor
//	                 with -database postgres also:
//	                   database           the server is killed or stopped, or its sessions end
//	                 with -encoding avro also:
//	                   registry           the Schema Registry fails, or is killed or stopped, while in turn all
//	                                      bridges or a Task API start
//	                   schemas            the Schema Registry loses its data while all bridges start
//	                 with -scale also:
//	                   replace            a new process takes the place of one, which then ends or is killed;
//	                                      in a run of 5m or longer each one is killed, stopped and replaced
//	                 with -brokers 3 also:
//	                   leader, coordinator, hang  that broker is killed; one is stopped
//	                   majority           two are killed, in a run of 2m or longer for 30 s
//	                   rolling, update    each broker, each bridge is restarted in turn
//	-answers LIST    what a faulty sink does: 500,503,302,hang,cut,cut-after (all)
//	-bin DIR         programs to test instead of those of this tree
//	-acks N          the least number of acknowledged changes (2 a second)
//
// Flags of sweep: -times 3 for each point, -points R2,R3 (all), and -seed, -dir,
// -kafka and -database (one Task API and one auditor) as above; with postgres the points
// of the auditor's file are left out, and those of its transaction are there. A point
// that was hit less often is RED.
//
// Flags of mutants: -only LIST of names (all), -repeat 1 runs of each, -control to
// see that the unchanged tree is GREEN in the same runs, -duration 25s, -kafka
// embedded, and -seed and -dir as above.
//
// Exit 0: GREEN. Exit 1: RED, INVALID or the run failed. Exit 2: wrong flags.
// Ctrl-C stops everything that was started.
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
	"github.com/taskwire/taskwire/internal/process"
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
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error()+" (see chaos --help)")
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
		os.Exit(1)
	}
}

type usageError struct{ reason string }

func (e *usageError) Error() string { return e.reason }

func command(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return &usageError{"want a command: run, sweep, check or mutants"}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, process.Manual(source))
		return nil
	case "run":
		return runCommand(ctx, args[1:], stdout)
	case "check":
		return checkCommand(args[1:], stdout)
	case "sweep":
		return sweepCommand(ctx, args[1:], stdout)
	case "mutants":
		return mutantsCommand(ctx, args[1:], stdout)
	case "broker": // run starts it for -kafka embedded
		return brokerCommand(ctx, args[1:])
	}
	return &usageError{fmt.Sprintf("unknown command %q: want run, sweep, check or mutants", args[0])}
}

// settings are the flags of run.
type settings struct {
	Duration, Drain time.Duration
	Seed            uint64
	Dir, Kafka, Bin string
	Brokers         int    // 3, or one
	Database        string // sqlite or postgres
	Encoding        string // json or avro
	Scale           bool   // several of everything
	Workers, Acks   int
	Rate            float64
	Faults, Answers string
	First           []string // faults to begin with, each alone
	Once            bool     // end the load after them

	Points  string         // of a sweep
	Strikes []strike       // of the points, instead of faults at random
	Times   int            // how often each strike
	Tags    string         // of the build
	Need    map[string]int // of a sweep, instead of what a run needs
	Expect  []string       // rules that a mutant breaks
	Test    string         // package and name of the Go test that a mutant fails, instead of a run
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
		f.IntVar(&s.Brokers, "brokers", 1, "")
		f.StringVar(&s.Database, "database", "sqlite", "")
		f.StringVar(&s.Encoding, "encoding", "json", "")
		f.BoolVar(&s.Scale, "scale", false, "")
		f.StringVar(&s.Bin, "bin", "", "")
		f.IntVar(&s.Workers, "workers", 8, "")
		f.IntVar(&s.Acks, "acks", 0, "")
		f.Float64Var(&s.Rate, "rate", 20, "")
		f.StringVar(&s.Answers, "answers", allAnswers, "")
		f.StringVar(&s.Faults, "faults", anyFault, "")
	})
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return &usageError{"run takes no arguments besides flags"}
	case s.Duration < 10*time.Second || s.Workers < 1 || s.Rate <= 0:
		return &usageError{"-duration must be at least 10s, -workers and -rate more than 0"}
	}
	if err := s.checkChoices(); err != nil {
		return err
	}
	if s.Kafka, err = chooseKafka(s.Kafka); err != nil {
		return err
	}
	if s.Scale {
		s.scale()
	}
	if err := s.chooseFaults(); err != nil {
		return err
	}
	for _, answer := range strings.Split(s.Answers, ",") {
		if !strings.Contains(","+allAnswers+",", ","+answer+",") {
			return &usageError{fmt.Sprintf("-answers: unknown answer %q: choose from %s", answer, allAnswers)}
		}
	}
	if s.Brokers != 1 && (s.Brokers != 3 || s.Kafka != "real") {
		return &usageError{"-brokers must be 1, or 3 with a real Kafka"}
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

// anyFault is the default; "all" is a kind.
const anyFault = "*"

// chooseFaults completes and checks the list of kinds.
func (s *settings) chooseFaults() error {
	possible := allFaults
	if s.Brokers == 3 {
		possible += "," + strings.Join(quorumKinds, ",")
	}
	if s.Database == "postgres" {
		possible += ",database"
	}
	if s.Encoding == "avro" {
		possible += ",registry,schemas"
	}
	if s.Scale {
		possible += ",replace"
	}
	if s.Faults == anyFault && s.Scale {
		s.Faults = s.scaledFaults()
	}
	if s.Faults == anyFault {
		s.Faults = possible
	}
	for kind := range strings.SplitSeq(s.Faults, ",") {
		if kind != "" && !strings.Contains(","+possible+",", ","+kind+",") {
			return &usageError{fmt.Sprintf("-faults: unknown kind %q: choose from %s", kind, possible)}
		}
	}
	return nil
}

func (s *settings) checkChoices() error {
	if s.Database != "sqlite" && s.Database != "postgres" {
		return &usageError{"-database must be sqlite or postgres"}
	}
	if s.Encoding != "" && s.Encoding != "json" && s.Encoding != "avro" {
		return &usageError{"-encoding must be json or avro"}
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
	return "", &usageError{"-kafka must be auto, real or embedded"}
}

func checkCommand(args []string, stdout io.Writer) error {
	var asJSON bool
	rest, err := parse("check", args, func(f *flag.FlagSet) { f.BoolVar(&asJSON, "json", false, "") })
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return &usageError{"check takes one argument, the folder of a kept run"}
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
