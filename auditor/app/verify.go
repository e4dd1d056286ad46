package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// Verify is the subcommand that reads all of the log and holds it to its checkpoint.
func Verify() process.Sub {
	return process.Sub{Name: "verify", Usage: "[--since OLD_CHECKPOINT] [--key VKEY]... [--event-keys FILE [--signed-from SEQ]] [PATH]", Run: runVerify}
}

func runVerify(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := newOfflineFlags("verify", Verify().Usage)
	since := flags.String("since", "", "")
	eventKeys, signedFrom := flags.String("event-keys", "", ""), flags.Int64("signed-from", 1, "")
	_, o, err := flags.open(ctx, lookup, args, 0)
	if err != nil {
		return err
	}
	defer o.Close()
	v := &verification{offline: o, stderr: stderr}
	if v.producers, err = openProducers(*eventKeys, *signedFrom); err != nil {
		return err
	}
	return v.run(ctx, *since, stdout)
}

func optional(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// verification finds the first line that is no entry, which needs no key, the first
// one that is not the one that was signed, which does, and those that their events'
// sources have not signed, which needs the sources' keys.
type verification struct {
	*offline
	stderr    io.Writer
	producers *producers // nil: not asked for

	lines, bytes int64
	badLine      *ledger.BadLine
	badTree      *tree.DamageError
}

func (v *verification) run(ctx context.Context, since string, stdout io.Writer) error {
	began := time.Now()
	_, now, err := v.checkpoint(ctx, "")
	if err != nil {
		return err
	}
	checker := tree.NewChecker(ctx, v.store, now, false)
	var old tree.Checkpoint
	if since != "" {
		if _, old, err = v.checkpoint(ctx, since); err != nil {
			return err
		}
		if old.Origin != now.Origin {
			return fmt.Errorf("%s is a checkpoint of the log %q, this log is %q", since, old.Origin, now.Origin)
		}
		checker.Since(old)
	}
	torn, err := v.read(ctx, checker)
	if err != nil {
		return err
	}
	damaged, unproved := v.report(ctx, checker), v.producers.report(v.stderr, v.badLine == nil)
	switch {
	case damaged:
		return errDamaged
	case unproved:
		return errUnproved
	}
	if since != "" {
		fmt.Fprintf(stdout, "ok: lines 1 to %d are the ones that %s covers\n", old.N, since)
	}
	fmt.Fprintf(stdout, "ok: %s: %d lines are entries, and lines 1 to %d are the ones that %s signed; root %s\n", v.path, v.lines, now.N, now.Origin, now.Hash)
	if v.lines > now.N {
		fmt.Fprintf(stdout, "%d lines are newer than the checkpoint\n", v.lines-now.N)
	}
	if checker.NoTiles() {
		fmt.Fprintln(stdout, "there are no tiles beside the log; the auditor makes them from the lines when it starts")
	}
	v.producers.ok(stdout)
	if torn > 0 {
		fmt.Fprintf(stdout, "%d bytes after the last line are being written, or were never acknowledged\n", torn)
	}
	seconds := time.Since(began).Seconds()
	fmt.Fprintf(v.stderr, "%d lines, %d MiB in %.1f s: %.0f lines/s\n", v.lines, v.bytes>>20, seconds, float64(v.lines)/seconds)
	return nil
}

func (v *verification) read(ctx context.Context, checker *tree.Checker) (torn int64, err error) {
	progress := newProgress(v.stderr, "verify", v.offline)
	torn, err = v.scan(ctx, true, func(b *ledger.Block) error {
		v.lines, v.bytes = v.lines+int64(b.Count), v.bytes+int64(len(b.Lines))
		progress.add(b)
		if v.badLine == nil {
			v.badLine = b.Bad
		}
		v.producers.check(b)
		if v.badTree == nil {
			return v.damage(checker.Add(b.Leaves...))
		}
		return nil // the lines that follow may still be no entries
	})
	if err == nil && v.badTree == nil {
		err = v.damage(checker.Done())
	}
	return torn, err
}

// damage keeps a *tree.DamageError and returns any other error.
func (v *verification) damage(err error) error {
	if errors.As(err, &v.badTree) {
		err = nil
	}
	return err
}

// report prints what is wrong, and says whether something is.
func (v *verification) report(ctx context.Context, checker *tree.Checker) bool {
	if d := v.badTree; d != nil {
		at := v.path
		if d.Line > 0 {
			at = v.where(ctx, d.Line)
		}
		fmt.Fprintf(v.stderr, "%s: %s\n", at, d.Reason)
	}
	if l := v.badLine; l != nil {
		fmt.Fprintf(v.stderr, "%s: line %d (byte %d): %s\n", l.File, l.Line, l.Byte, l.Reason)
	}
	damaged := v.badTree != nil || v.badLine != nil
	if !damaged && checker.NoTiles() {
		return false // a backup has none, and a start makes them
	}
	for _, t := range checker.Tiles() {
		fmt.Fprintf(v.stderr, "%v\n", &t)
	}
	return damaged || len(checker.Tiles()) > 0
}
