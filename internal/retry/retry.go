// Package retry paces what is tried again.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause returns after d, or with the cause of ctx's end as soon as it ends.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return context.Cause(ctx) // also when both happened: a caller that ends should not try once more
}

// Backoff grows from Min to Max, doubling with each Delay. Half of each delay
// is random, so that several programs do not return to a broker in step. It is
// for one goroutine.
//
// Deliveries to a sink do not use it: their pauses are part of the contract
// (full jitter, Retry-After) and belong to each event, see deliver.Backoff.
type Backoff struct {
	Min, Max time.Duration

	next time.Duration
}

// Delay is how long to wait before the next attempt: d/2 to d, where d is Min
// the first time and doubles from then on, up to Max.
func (b *Backoff) Delay() time.Duration {
	d := max(b.next, b.Min)
	b.next = min(2*d, b.Max)
	return d/2 + rand.N(d/2+1)
}

// Wait pauses for Delay. It returns the cause of ctx's end when that comes first.
func (b *Backoff) Wait(ctx context.Context) error { return Pause(ctx, b.Delay()) }

// Reset begins at Min again, after a success.
func (b *Backoff) Reset() { b.next = 0 }
