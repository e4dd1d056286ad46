package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/volume"
)

// patience is how long New waits for the log. Its index is usually there, and
// then this is enough for a log of any length; making it anew takes minutes for
// a long log, and meanwhile Run says how far it is.
const patience = 2 * time.Second

// loading is an open of the log that takes longer than New waits.
type loading struct {
	done   chan error
	cancel context.CancelFunc
}

// begin opens the log. When that takes long, missing is nil and s.loading is not.
func (s *Service) begin(ctx context.Context) (missing error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &loading{make(chan error, 1), cancel}
	go func() { l.done <- s.load(ctx) }()
	select {
	case err := <-l.done:
		cancel()
		return err
	case <-time.After(patience):
		s.loading = l
		return nil
	}
}

// errLoading is why nothing is served while begin has not waited to the end; what
// observes the open may say more.
var errLoading = errors.New("ledger: the audit log and its tree are being read")

// unavailable is why there is nothing to serve when New returns. Without a reason
// the port would answer 404 to everything, and /readyz that all is well.
func (s *Service) unavailable() error {
	if s.missing == nil && s.loading != nil {
		return errLoading
	}
	return s.missing
}

// finish waits for the log, and then for its volume if that cannot be used. With
// nil and no ledger the stop came first.
func (s *Service) finish(ctx context.Context) error {
	missing := s.missing
	if l := s.loading; l != nil {
		stop := context.AfterFunc(ctx, l.cancel)
		missing = <-l.done
		stop()
		l.cancel()
		if ctx.Err() != nil && errors.Is(missing, context.Canceled) {
			return nil
		}
		s.http.SetUnavailable(missing)
	}
	return volume.Retry(ctx, s.log, missing, s.http.SetUnavailable, s.load)
}

// giveUp ends a load that nobody waits for.
func (s *Service) giveUp() {
	if s.loading != nil {
		s.loading.cancel()
		<-s.loading.done //nolint:errcheck // whatever it came to
	}
}

// indexing returns what observes an open: it says how far that is, in the log and
// in the answer of /readyz, once it takes long.
func (s *Service) indexing() func(done, total int64) {
	began := time.Now()
	often, seldom := rate.Sometimes{Interval: time.Second}, rate.Sometimes{Interval: 10 * time.Second}
	return func(done, total int64) {
		if time.Since(began) < patience {
			return
		}
		often.Do(func() {
			s.http.SetUnavailable(fmt.Errorf("ledger: reading the audit log into its index: %d of %d bytes", done, total))
		})
		seldom.Do(func() { s.log.Info("reading the audit log into its index", "done_bytes", done, "total_bytes", total) })
	}
}

// checking returns what observes the check of the log that goes on in the background.
func (s *Service) checking() func(done, total int64) {
	began := time.Now()
	seldom := rate.Sometimes{Interval: time.Minute}
	seldom.Do(func() {})
	return func(done, total int64) {
		switch {
		case done < total:
			seldom.Do(func() { s.log.Info("checking the audit log", "done_bytes", done, "total_bytes", total) })
		case time.Since(began) > patience: // a short log is not worth a line
			s.log.Info("audit log checked", "bytes", total, "took", time.Since(began))
		}
	}
}
