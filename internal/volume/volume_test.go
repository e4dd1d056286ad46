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
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/volume"
)

func at(errno syscall.Errno) error {
	return fmt.Errorf("audit log: %w", &fs.PathError{Op: "open", Path: "/data/audit.log", Err: errno})
}

func TestRecoverable(t *testing.T) {
	for err, want := range map[error]bool{
		at(syscall.EACCES): true, at(syscall.EPERM): true, at(syscall.EROFS): true, at(syscall.ENOSPC): true, at(syscall.EDQUOT): true,
		at(syscall.ENOENT): false, at(syscall.ENOTDIR): false, at(syscall.EISDIR): false, at(syscall.EIO): false, at(syscall.EAGAIN): false,
		errors.New("damaged at byte 7"): false, context.Canceled: false,
	} {
		if got := volume.Recoverable(err); got != want {
			t.Errorf("Recoverable(%v) = %v, want %v", err, got, want)
		}
	}
	_, missing := os.Open(filepath.Join(t.TempDir(), "no", "such"))
	if volume.Recoverable(missing) || volume.Recoverable(nil) {
		t.Error("a missing folder, or no error, counts as recoverable")
	}
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// retry runs Retry over a sequence of outcomes, one a second. It returns what
// setUnavailable and the log received, and how long Retry took.
func retry(t *testing.T, ctx context.Context, outcomes ...error) (unavailable []string, log string, took time.Duration, err error) {
	t.Helper()
	var out bytes.Buffer
	began := time.Now()
	next := outcomes[1:]
	err = volume.Retry(ctx, slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: withoutTime})), outcomes[0], func(reason error) { unavailable = append(unavailable, fmt.Sprint(reason)) },
		func(context.Context) error {
			defer func() { next = next[1:] }()
			return next[0]
		})
	return unavailable, out.String(), time.Since(began), err
}

func TestEachReasonIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := at(syscall.EACCES), at(syscall.EROFS)
		unavailable, log, took, err := retry(t, t.Context(), a, a, a, b, b, nil)
		if err != nil || took != 5*time.Second {
			t.Errorf("Retry = %v after %v, want nil after 5s", err, took)
		}
		if diff := cmp.Diff([]string{a.Error(), b.Error(), "<nil>"}, unavailable); diff != "" {
			t.Errorf("reasons (-want +got):\n%s", diff)
		}
		want := fmt.Sprintf(`level=ERROR msg="volume unavailable, retrying every second" err=%q
level=ERROR msg="volume unavailable, retrying every second" err=%q
level=INFO msg="volume available, service ready"
`, a, b)
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// The end of the other process is noticed soon: nothing is served meanwhile.
func TestAHeldLockIsAskedForOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := &volume.Held{Err: errors.New("in use by process 7")}
		unavailable, log, took, err := retry(t, t.Context(), held, held, held, nil)
		if err != nil || took > 300*time.Millisecond {
			t.Errorf("Retry = %v after %v, want nil after three short waits", err, took)
		}
		if diff := cmp.Diff([]string{held.Error(), "<nil>"}, unavailable); diff != "" {
			t.Errorf("reasons (-want +got):\n%s", diff)
		}
		want := `level=ERROR msg="data in use, waiting for the other process to end" err="in use by process 7"
level=INFO msg="data taken over, service ready"
`
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

func TestAnUnrecoverableErrorEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		damage := errors.New("damaged at byte 7")
		unavailable, _, _, err := retry(t, t.Context(), at(syscall.EROFS), damage)
		if !errors.Is(err, damage) || slices.Contains(unavailable, "<nil>") {
			t.Errorf("Retry = %v, reasons %q; want the damage, and not ready", err, unavailable)
		}
	})
}

func TestAStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		unavailable, _, took, err := retry(t, ctx, at(syscall.EROFS), at(syscall.EROFS), at(syscall.EROFS))
		if err != nil || took != 2500*time.Millisecond || slices.Contains(unavailable, "<nil>") {
			t.Errorf("Retry = %v after %v, reasons %q; want nil at once, and not ready", err, took, unavailable)
		}
		ctx, cancel = context.WithCancel(t.Context())
		err = volume.Retry(ctx, slog.New(slog.DiscardHandler), at(syscall.EROFS), func(error) {}, func(context.Context) error {
			cancel() // in the middle of a long load
			return fmt.Errorf("load: %w", ctx.Err())
		})
		if err != nil {
			t.Errorf("Retry = %v after a stop during open, want nil", err)
		}
	})
}
