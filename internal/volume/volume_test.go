package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/internal/volume"
)

func at(errno syscall.Errno) error {
	return fmt.Errorf("audit log: %w", &fs.PathError{Op: "open", Path: "/data/audit.log", Err: errno})
}

func TestMendable(t *testing.T) {
	for err, want := range map[error]bool{
		at(syscall.EACCES): true, at(syscall.EPERM): true, at(syscall.EROFS): true, at(syscall.ENOSPC): true, at(syscall.EDQUOT): true,
		at(syscall.ENOENT): false, at(syscall.ENOTDIR): false, at(syscall.EISDIR): false, at(syscall.EIO): false, at(syscall.EAGAIN): false,
		errors.New("damaged at byte 7"): false, context.Canceled: false,
	} {
		if got := volume.Mendable(err); got != want {
			t.Errorf("Mendable(%v) = %v, want %v", err, got, want)
		}
	}
	_, missing := os.Open(filepath.Join(t.TempDir(), "no", "such"))
	if volume.Mendable(missing) || volume.Mendable(nil) {
		t.Error("a missing folder, or no error, counts as mendable")
	}
}

// retry runs Retry over a sequence of outcomes, one a second, and says what
// hold and the log were told and how long it took.
func retry(t *testing.T, ctx context.Context, outcomes ...error) (held []string, log string, took time.Duration, err error) {
	t.Helper()
	var out bytes.Buffer
	began := time.Now()
	next := outcomes[1:]
	err = volume.Retry(ctx, slog.New(slog.NewTextHandler(&out, nil)), outcomes[0], func(reason error) { held = append(held, fmt.Sprint(reason)) },
		func(context.Context) error {
			defer func() { next = next[1:] }()
			return next[0]
		})
	return held, out.String(), time.Since(began), err
}

func TestEachReasonIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := at(syscall.EACCES), at(syscall.EROFS)
		held, log, took, err := retry(t, t.Context(), a, a, a, b, b, nil)
		if err != nil || took != 5*time.Second || !slices.Equal(held, []string{a.Error(), b.Error(), "<nil>"}) {
			t.Errorf("%v after %v, held for %q", err, took, held)
		}
		if strings.Count(log, "\n") != 3 || strings.Count(log, a.Error()) != 1 || strings.Count(log, b.Error()) != 1 || !strings.Contains(log, "ready after all") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestWhatWaitingDoesNotMendEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		damage := errors.New("damaged at byte 7")
		held, _, _, err := retry(t, t.Context(), at(syscall.EROFS), damage)
		if !errors.Is(err, damage) || slices.Contains(held, "<nil>") {
			t.Errorf("%v, held for %q; want the damage, and not ready", err, held)
		}
	})
}

func TestAStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		held, _, took, err := retry(t, ctx, at(syscall.EROFS), at(syscall.EROFS), at(syscall.EROFS))
		if err != nil || took != 2500*time.Millisecond || slices.Contains(held, "<nil>") {
			t.Errorf("%v after %v, held for %q; want nil at once, and not ready", err, took, held)
		}
		ctx, cancel = context.WithCancel(t.Context())
		err = volume.Retry(ctx, slog.New(slog.DiscardHandler), at(syscall.EROFS), func(error) {}, func(context.Context) error {
			cancel() // in the middle of a long load
			return fmt.Errorf("load: %w", ctx.Err())
		})
		if err != nil {
			t.Errorf("stopped while it loaded: %v, want nil", err)
		}
	})
}
