package pump

import (
	"context"
	"errors"
	"math"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/retry"
)

// awaitConsent returns when the sink has agreed to deliveries and has named its
// rate. Until then the group is not joined, so that no event waits in this process
// that another, to which the sink has agreed, could deliver. Consent is not kept:
// it is asked for again at the next start, and when the configuration has changed.
func (s *Subscription) awaitConsent(ctx context.Context) error {
	if s.cfg.Origin == "" {
		return nil
	}
	for asked := 1; ; asked++ {
		if err := s.awaitResume(ctx); err != nil {
			return err
		}
		consent, err := s.sink.Handshake(ctx, int(min(math.Ceil(s.cfg.Rate*60), math.MaxInt32)))
		s.mu.Lock()
		s.missing = err
		s.mu.Unlock()
		if err == nil {
			s.pace.allow(consent.PerMinute)
			s.log.Info("the sink has agreed to deliveries", "origin", s.cfg.Origin, "per_minute", consent.PerMinute)
			return nil
		}
		var refused *deliver.NoConsentError
		errors.As(err, &refused)
		if ctx.Err() == nil && isPowerOfTwo(asked) {
			s.log.Warn("waiting for the consent of the sink", "origin", s.cfg.Origin, "asked", asked, "err", err)
		}
		if refused.Outcome == deliver.Gone {
			s.gate.Gone(err)
		}
		if err := retry.Pause(ctx, s.cfg.Backoff.Wait(asked, refused.RetryAfter)); err != nil {
			return err
		}
	}
}

// awaitResume: a sink that wants no more posts is not asked either.
func (s *Subscription) awaitResume(ctx context.Context) error {
	for {
		shut, changed := s.gate.Get()
		if shut == nil {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
