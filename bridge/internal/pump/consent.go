package pump

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
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
		given, err := s.sink.Handshake(ctx, int(min(math.Ceil(s.cfg.Rate*60), math.MaxInt32)), s.consent.address(s.cfg.Callback))
		s.mu.Lock()
		s.missing = err
		s.mu.Unlock()
		if err == nil {
			s.pace.allow(given.PerMinute)
			s.log.Info("the sink has agreed to deliveries", "origin", s.cfg.Origin, "per_minute", given.PerMinute)
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
		if called, err := s.consent.await(ctx, s.cfg.Backoff.Wait(asked, refused.RetryAfter)); called || err != nil {
			s.mu.Lock()
			s.missing = err
			s.mu.Unlock()
			return err
		}
	}
}

// consent is the other way to agree: a call of an address that only the sink was
// told. Its secret is of this process and this subscription. Who knows it can do
// nothing but start the deliveries to the sink that is configured, and set their
// rate, never above the configured one.
type consent struct {
	secret string
	once   sync.Once
	called chan struct{} // closed by the first call
}

func newConsent() *consent {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails
	return &consent{secret: base64.RawURLEncoding.EncodeToString(secret[:]), called: make(chan struct{})}
}

// address is what the sink is told, "" for nothing.
func (c *consent) address(base string) string {
	if base == "" {
		return ""
	}
	return strings.TrimSuffix(base, "/") + "/handshake/" + c.secret
}

// await returns when the address was called, or after d.
func (c *consent) await(ctx context.Context, d time.Duration) (called bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.called:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// Consent takes a call of the address that ends with secret. It reports whether
// that is this subscription's.
func (s *Subscription) Consent(secret string, given deliver.Consent) bool {
	if s.cfg.Origin == "" || s.cfg.Callback == "" || subtle.ConstantTimeCompare([]byte(secret), []byte(s.consent.secret)) == 0 {
		return false
	}
	s.pace.allow(given.PerMinute)
	s.consent.once.Do(func() { close(s.consent.called) })
	s.log.Info("the sink has agreed to deliveries by a callback", "origin", s.cfg.Origin, "per_minute", given.PerMinute)
	return true
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
