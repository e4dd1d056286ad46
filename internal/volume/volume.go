// Package volume is what a service does while the volume with its files cannot
// be used: not yet handed to this user, mounted read-only, or full. On
// Kubernetes that passes by itself or is mended from outside, and a process
// that ended for it would only be restarted, less and less often.
package volume

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"syscall"
	"time"
)

// Mendable says whether somebody can put err right while this process waits:
//
//	EACCES, EPERM    owner or mode; a mount may get its group after the start
//	EROFS            mounted read-only, or remounted so after an error
//	ENOSPC, EDQUOT   no room
//
// A missing folder is not among them: on Kubernetes the mount point is there,
// and by hand it is a mistyped path, for which nobody would come. Nor is EIO:
// a person has to judge what a failing disk still holds.
func Mendable(err error) bool {
	return slices.ContainsFunc([]error{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT},
		func(errno error) bool { return errors.Is(err, errno) })
}

// Retry goes on from an open that failed for reason, if it did: it tries again
// every second until open succeeds, fails with what is not mendable, or ctx
// ends, which is no error. hold and the log are told each new reason once, and
// of the success; then hold is given nil.
func Retry(ctx context.Context, log *slog.Logger, reason error, hold func(error), open func(context.Context) error) error {
	if reason == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for said := ""; Mendable(reason); reason = open(ctx) {
		if reason.Error() != said {
			said = reason.Error()
			hold(reason)
			log.Error("not ready, trying again every second: " + said)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	switch {
	case ctx.Err() != nil && errors.Is(reason, context.Canceled):
		return nil // the stop came in the middle of open
	case reason == nil:
		hold(nil)
		log.Info("ready after all: the volume can be used")
	}
	return reason
}
