package deliver

import (
	"math"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait between attempts.
type Backoff struct {
	Initial    time.Duration
	Multiplier float64
	Max        time.Duration
}

// Wait is the pause after the given number of failed attempts: between nothing
// and an exponentially growing bound (full jitter), so that many waiting events do
// not come back as one wave. A sink's Retry-After is obeyed, up to ten times Max.
func (b Backoff) Wait(failed int, retryAfter time.Duration) time.Duration {
	bound := min(float64(b.Initial)*math.Pow(b.Multiplier, float64(failed-1)), float64(b.Max))
	wait := time.Duration(rand.Float64() * bound)
	return max(wait, min(retryAfter, 10*b.Max))
}
