package pump

import "time"

// SetSession lets the group forget a dead pass sooner.
func (r *Redrive) SetSession(d time.Duration) { r.session = d }

// GatherUntil is gatherUntil of a subscription in mode.
func GatherUntil(mode Mode, last, oldest time.Time, ready, size int) time.Time {
	return (&Subscription{cfg: Config{Mode: mode}}).gatherUntil(last, oldest, ready, size)
}

// SetWorkerIdle ends workers sooner that have nothing to do.
func (s *Subscription) SetWorkerIdle(d time.Duration) { s.workerIdle = d }
