package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

// mutantsCommand applies each patch of chaos/mutants to a copy of the tree and
// expects a short run to end RED. Flags: -duration 25s, -only NAME, -seed N,
// -kafka embedded, -dir DIR for what is kept. The first lines of a patch may say
// which faults show it: "Faults: kill" and "Answers: 302".
func mutantsCommand(ctx context.Context, args []string, stdout io.Writer) error {
	s := settings{Drain: 15 * time.Second, Workers: 8, Rate: 20, Faults: "kill,sink", Answers: allAnswers, Acks: 1}
	var only string
	rest, err := parse("mutants", args, func(f *flag.FlagSet) {
		f.DurationVar(&s.Duration, "duration", 25*time.Second, "")
		f.StringVar(&only, "only", "", "")
		f.Uint64Var(&s.Seed, "seed", 1, "")
		f.StringVar(&s.Kafka, "kafka", "embedded", "")
		f.StringVar(&s.Dir, "dir", "", "")
	})
	if err != nil || len(rest) > 0 {
		return errors.Join(err, &usageError{"mutants takes flags only"})
	}
	patches, err := filepath.Glob("chaos/mutants/*.patch")
	if err != nil || len(patches) == 0 {
		return errors.Join(err, errors.New("no chaos/mutants/*.patch: run it at the root of the repository"))
	}
	if s.Dir == "" {
		if s.Dir, err = os.MkdirTemp("", "mutants-*"); err != nil {
			return err
		}
	}
	caught, total := 0, 0
	for _, patch := range patches {
		name := strings.TrimSuffix(filepath.Base(patch), ".patch")
		if only != "" && only != name {
			continue
		}
		total++
		rep, err := mutant(ctx, s, name, patch)
		switch {
		case err != nil:
			fmt.Fprintf(stdout, "%-28s NOT RUN: %v\n", name, err)
		case rep.Verdict == check.Red:
			caught++
			fmt.Fprintf(stdout, "%-28s caught: %s\n", name, rep.Broken())
		default:
			fmt.Fprintf(stdout, "%-28s SURVIVED: %s\n", name, rep.Verdict)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Fprintf(stdout, "mutants caught %d of %d; kept in %s\n", caught, total, s.Dir)
	if caught < total {
		return errors.New("a mutant was not caught")
	}
	return nil
}

func mutant(ctx context.Context, s settings, name, patch string) (*check.Report, error) {
	tree := filepath.Join(s.Dir, name, "tree")
	if err := copyTree(ctx, tree); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tree)
	abs, err := filepath.Abs(patch)
	if err != nil {
		return nil, err
	}
	apply := exec.CommandContext(ctx, "patch", "-p1", "--batch", "--silent", "-i", abs)
	apply.Dir = tree
	if out, err := apply.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the patch does not fit any more: %w\n%s", err, out)
	}
	if err := s.asPatchSays(patch); err != nil {
		return nil, err
	}
	s.Bin = filepath.Join(s.Dir, name, "bin")
	if err := buildPrograms(ctx, tree, s.Bin, s.Tags); err != nil {
		return nil, err
	}
	s.Dir = filepath.Join(s.Dir, name, "run")
	log, err := os.Create(filepath.Join(filepath.Dir(s.Dir), "output.txt"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return run(ctx, s, log)
}

func (s *settings) asPatchSays(patch string) error {
	text, err := os.ReadFile(patch)
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(string(text), "\n--- ")
	for line := range strings.Lines(head) {
		if v, ok := strings.CutPrefix(line, "Faults: "); ok {
			s.Faults = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "Answers: "); ok {
			s.Answers = strings.TrimSpace(v)
		}
	}
	return nil
}

// copyTree copies what git tracks, as it stands in the working tree.
func copyTree(ctx context.Context, to string) error {
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z").Output()
	if err != nil {
		return fmt.Errorf("list the tree: %w", err)
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
