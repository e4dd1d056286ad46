package pump

import "time"

// SetSession lets the group forget a dead pass sooner.
func (r *Redrive) SetSession(d time.Duration) { r.session = d }

// SetWorkerIdle ends workers sooner that have nothing to do.
func (s *Subscription) SetWorkerIdle(d time.Duration) { s.workerIdle = d }

// SetRetentionEvery has it look more often at what the topic deletes.
func (s *Subscription) SetRetentionEvery(d time.Duration) { s.retentionEvery = d }
