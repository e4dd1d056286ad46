// Package volume is what a service does while the volume that holds its files
// cannot be used: not yet owned by this user, mounted read-only, full, or in use by
// the process that this one replaces; or while the database in its place is not up.
// On Kubernetes that passes by itself or is fixed from outside, and a process that
// exited would only be restarted, less and less often.
package volume

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// Down marks the error of a database that may come up while this process waits.
type Down struct{ Err error }

func (d *Down) Error() string { return d.Err.Error() }
func (d *Down) Unwrap() error { return d.Err }

// Held marks the error of files that another process has locked, when that process
// is about to end.
type Held struct{ Err error }

func (h *Held) Error() string { return h.Err.Error() }
func (h *Held) Unwrap() error { return h.Err }

// Recoverable reports whether the cause of err can be fixed while this process waits:
//
//	EACCES, EPERM    owner or mode; a mount may get its group after the start
//	EROFS            mounted read-only, or remounted so after an error
//	ENOSPC, EDQUOT   no room
//	*Down            a database that cannot be reached
//	*Held            files of a process that will end
//
// A missing folder is not among them: on Kubernetes the mount point exists, and
// on a command line the path is mistyped, which waiting does not fix. Nor is
// EIO: a person has to judge what a failing disk still holds.
func Recoverable(err error) bool {
	return is[*Down](err) || is[*Held](err) || slices.ContainsFunc([]error{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT},
		func(errno error) bool { return errors.Is(err, errno) })
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// heldWait is short because nothing is served until the other process has ended, and
// asking for its lock costs next to nothing.
const heldWait = 100 * time.Millisecond

// Retry continues after an open that failed for reason; it does nothing when
// reason is nil. It calls open every second, for a *Held ten times a second, until
// open succeeds, fails with an error that is not recoverable, or ctx ends, which is
// no error. Each new reason
// goes to setUnavailable and the log once, then nil and the success.
//
// The log is limited by reason and not by time: an operator sees at once that a
// fix changed the error, and the same error never fills the log.
func Retry(ctx context.Context, log *slog.Logger, reason error, setUnavailable func(error), open func(context.Context) error) error {
	if reason == nil {
		return nil
	}
	pause := time.Second
	wait, end := "volume unavailable, retrying every second", "volume available, service ready"
	switch {
	case is[*Down](reason):
		wait, end = "database unavailable, retrying every second", "database available, service ready"
	case is[*Held](reason):
		pause = heldWait
		wait, end = "data in use, waiting for the other process to end", "data taken over, service ready"
	}
	for logged := ""; Recoverable(reason); reason = open(ctx) {
		if reason.Error() != logged {
			logged = reason.Error()
			setUnavailable(reason)
			log.Error(wait, "err", reason) //nolint:sloglint // one of three constants
		}
		if retry.Pause(ctx, pause) != nil {
			return nil //nolint:nilerr // a stop during the wait is not an error
		}
	}
	switch {
	case ctx.Err() != nil && errors.Is(reason, context.Canceled):
		return nil // the stop came in the middle of open
	case reason == nil:
		setUnavailable(nil)
		log.Info(end) //nolint:sloglint // one of three constants
	}
	return reason
}
