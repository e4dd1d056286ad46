package deliver

import (
	"math"
	"math/rand/v2"
	"time"
)

// Backoff computes the pauses between attempts. It is not internal/retry's: the
// pauses of deliveries are part of the contract (any multiplier, full jitter,
// Retry-After), and belong to an event, which waits without a goroutine.
type Backoff struct {
	Initial    time.Duration
	Multiplier float64
	Max        time.Duration
}

// Wait returns the pause after the given number of failed attempts: between zero
// and an exponentially growing bound (full jitter), so that many waiting events are
// not all retried at once. A sink's Retry-After is obeyed, up to ten times Max.
func (b Backoff) Wait(failed int, retryAfter time.Duration) time.Duration {
	bound := min(float64(b.Initial)*math.Pow(b.Multiplier, float64(failed-1)), float64(b.Max))
	wait := time.Duration(rand.Float64() * bound)
	return max(wait, min(retryAfter, 10*b.Max))
}
