package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

// mutantsCommand applies each patch of chaos/mutants to a copy of the tree and
// expects a short run of it to end RED, by a rule that the patch names. The first
// lines of a patch may also say which run catches it: "Faults: kill",
// "Answers: 302" and "Encoding: avro" a random one, "Points: U1-power" and "Times: 3" a sweep. What
// takes somebody who is in no run, such as a forger, names a Go test that fails:
// "Test: ./bridge/internal/seal ^TestName$".
//
// With -control the unchanged tree has the same runs, one for each combination
// of settings, and must be GREEN: a judge that always says RED catches everything.
func mutantsCommand(ctx context.Context, args []string, stdout io.Writer) (err error) {
	m := mutants{out: stdout, settings: settings{Database: "sqlite", Drain: 15 * time.Second, Workers: 8, Rate: 20, Faults: "kill,sink", Answers: allAnswers, Acks: 1}}
	var only string
	rest, err := parse("mutants", args, func(f *flag.FlagSet) {
		f.DurationVar(&m.Duration, "duration", 25*time.Second, "")
		f.StringVar(&only, "only", "", "")
		f.Uint64Var(&m.Seed, "seed", 1, "")
		f.IntVar(&m.repeat, "repeat", 1, "")
		f.BoolVar(&m.control, "control", false, "")
		f.StringVar(&m.Kafka, "kafka", "embedded", "")
		f.StringVar(&m.Dir, "dir", "", "")
	})
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return &usageError{"mutants takes no arguments besides flags"}
	}
	patches, err := filepath.Glob("chaos/mutants/*.patch")
	if err != nil || len(patches) == 0 {
		return errors.Join(err, errors.New("no chaos/mutants/*.patch here: run it in the root of the repository"))
	}
	patches = slices.DeleteFunc(patches, func(p string) bool {
		return only != "" && !slices.Contains(strings.Split(only, ","), mutantName(p))
	})
	if len(patches) == 0 {
		return &usageError{"-only: no mutant is called " + only}
	}
	if m.Kafka, err = chooseKafka(m.Kafka); err != nil {
		return err
	}
	if m.Dir == "" {
		if m.Dir, err = os.MkdirTemp("", "mutants-*"); err != nil {
			return err
		}
	}
	return m.run(ctx, patches)
}

func mutantName(patch string) string { return strings.TrimSuffix(filepath.Base(patch), ".patch") }

type mutants struct {
	settings
	out     io.Writer
	repeat  int
	control bool
}

func (m mutants) run(ctx context.Context, patches []string) error {
	caught, total, wrong := 0, 0, 0
	controlled := map[string]bool{}
	for _, patch := range patches {
		how, err := m.read(patch)
		if err != nil {
			return fmt.Errorf("%s: %w", patch, err)
		}
		if m.control && !controlled[how.key()] {
			controlled[how.key()] = true
			if !m.times(ctx, how, fmt.Sprintf("control-%d", len(controlled)), "") {
				wrong++
			}
		}
		total++
		if m.times(ctx, how, mutantName(patch), patch) {
			caught++
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Fprintf(m.out, "mutants caught %d of %d, seed %d; kept in %s\n", caught, total, m.Seed, m.Dir)
	if caught < total || wrong > 0 {
		return errors.New("a mutant was not caught, or the unchanged tree was not GREEN")
	}
	return nil
}

// times runs it m.repeat times; one unexpected verdict is enough to fail.
func (m mutants) times(ctx context.Context, how settings, name, patch string) bool {
	for i := range m.repeat {
		how.Seed = m.Seed + uint64(i)
		how.Dir = filepath.Join(m.Dir, fmt.Sprintf("%s-%d", name, how.Seed))
		began := time.Now()
		var verdict string
		var ok bool
		if how.Test != "" {
			verdict, ok = tested(mutantTest(ctx, how, patch), patch != "")
		} else {
			rep, err := mutant(ctx, how, patch)
			verdict, ok = judged(rep, err, how.Expect, patch != "")
		}
		fmt.Fprintf(m.out, "%-28s seed %d %3.0f s  %s\n", name, how.Seed, time.Since(began).Seconds(), verdict)
		if !ok {
			return false
		}
	}
	return true
}

func judged(rep *check.Report, err error, expect []string, mutated bool) (verdict string, ok bool) {
	switch {
	case err != nil:
		return "NOT RUN: " + err.Error(), false
	case !mutated:
		return strings.TrimSpace(rep.Verdict + " " + rep.Broken()), rep.Verdict == check.Green
	case rep.Verdict != check.Red:
		return "SURVIVED: " + rep.Verdict, false
	case !slices.ContainsFunc(expect, func(rule string) bool { return rep.Violations[rule] > 0 }):
		return "RED by another rule: " + rep.Broken() + ", expected " + strings.Join(expect, " or "), false
	}
	return "caught: " + rep.Broken(), true
}

// errTestFailed is the end of a test that ran.
var errTestFailed = errors.New("the test failed")

func tested(err error, mutated bool) (verdict string, ok bool) {
	switch {
	case errors.Is(err, errTestFailed):
		return "test failed", mutated
	case err != nil:
		return "NOT RUN: " + err.Error(), false
	case mutated:
		return "SURVIVED: the test passed", false
	}
	return "test passed", true
}

// mutantTest runs the Go test that a patch names in the tree with the patch.
func mutantTest(ctx context.Context, s settings, patch string) error {
	pkg, name, _ := strings.Cut(s.Test, " ")
	tree := filepath.Join(s.Dir, "tree")
	if err := copyTree(ctx, tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := applyPatch(ctx, tree, patch); err != nil {
		return err
	}
	// -v prints the name of each test that ran: a failed build is no failed test.
	test := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout=5m", "-run", name, pkg)
	test.Dir = tree
	out, err := test.CombinedOutput()
	if werr := os.WriteFile(filepath.Join(s.Dir, "output.txt"), out, 0o600); werr != nil {
		return werr
	}
	switch {
	case !bytes.Contains(out, []byte("=== RUN ")):
		return fmt.Errorf("no test %s ran in %s:\n%s", name, pkg, out)
	case err != nil:
		return errTestFailed
	}
	return nil
}

// mutant runs the tree with the patch, "" for the unchanged tree.
func mutant(ctx context.Context, s settings, patch string) (*check.Report, error) {
	tree := filepath.Join(s.Dir, "tree")
	if err := copyTree(ctx, tree); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tree)
	if err := applyPatch(ctx, tree, patch); err != nil {
		return nil, err
	}
	s.Bin = filepath.Join(s.Dir, "bin")
	if err := buildPrograms(ctx, tree, s.Bin, s.Tags); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(s.Dir, "output.txt"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.Dir = filepath.Join(s.Dir, "run")
	return run(ctx, s, log)
}

func applyPatch(ctx context.Context, tree, patch string) error {
	if patch == "" {
		return nil
	}
	abs, err := filepath.Abs(patch)
	if err != nil {
		return err
	}
	apply := exec.CommandContext(ctx, "patch", "-p1", "--batch", "--silent", "-i", abs)
	apply.Dir = tree
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("the patch does not apply: %w\n%s", err, out)
	}
	return nil
}

// key is equal for two patches that are caught by the same kind of run.
func (s settings) key() string {
	return fmt.Sprint(s.Encoding, "|", s.Faults, "|", s.Answers, "|", s.Points, "|", s.Times, "|", s.Duration, "|", s.Test)
}

// read returns the settings that a patch asks for.
func (m mutants) read(patch string) (settings, error) {
	s := m.settings
	text, err := os.ReadFile(patch)
	if err != nil {
		return s, err
	}
	s.Times = 3
	head, _, _ := strings.Cut(string(text), "\n--- ")
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "Faults":
			s.Faults = value
		case "Answers":
			s.Answers = value
		case "Points":
			s.Points = value
		case "Times":
			s.Times, err = strconv.Atoi(value)
		case "Encoding":
			s.Encoding = value
		case "Test":
			s.Test = value
		case "Expect":
			s.Expect = strings.Split(value, ",")
		}
	}
	if (len(s.Expect) == 0) == (s.Test == "") {
		err = errors.Join(err, errors.New("it has no line \"Expect: RULE\", nor \"Test: PACKAGE NAME\", or both"))
	}
	for _, rule := range s.Expect {
		if !slices.Contains(check.Rules(), rule) {
			err = errors.Join(err, errors.New("no rule is called "+rule))
		}
	}
	if s.Points == "" || err != nil {
		return s, err
	}
	return s, s.sweep()
}

// copyTree copies what git tracks, as it stands in the working tree.
func copyTree(ctx context.Context, to string) error {
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z").Output()
	if err != nil {
		return fmt.Errorf("list the files of the repository: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
