package pump

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/retry"
)

// Fault plays a sink that is broken for a while, so that a developer can watch what
// the bridge does about it. No setting turns it on: only a program that hands one
// over has it, and go run ./dev is the only one. A nil *Fault is never there.
type Fault struct {
	mu  sync.Mutex
	now map[string]fault // by subscription
}

type fault struct {
	how   string
	until time.Time
}

// Faults are what a sink can be made to do: answer with a status, or slowly.
func Faults() []string { return []string{"503", "400", "slow"} }

// slow is how much longer a slow sink takes.
const slow = 2 * time.Second

// Set breaks the sink of a subscription for a time; 0 mends it.
func (f *Fault) Set(subscription, how string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		f.now = map[string]fault{}
	}
	f.now[subscription] = fault{how, time.Now().Add(d)}
}

// Get is what the sink of a subscription is made to do, "" for nothing, and until when.
func (f *Fault) Get(subscription string) (how string, until time.Time) {
	if f == nil {
		return "", time.Time{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.now[subscription]
	if !time.Now().Before(x.until) {
		return "", time.Time{}
	}
	return x.how, x.until
}

// act is the answer of the broken sink; the zero Result when the real one is to be asked.
func (f *Fault) act(ctx context.Context, subscription string) deliver.Result {
	switch how, _ := f.Get(subscription); how {
	case "503":
		return played(deliver.Retry, 503)
	case "400":
		return played(deliver.Rejected, 400)
	case "slow":
		if err := retry.Pause(ctx, slow); err != nil {
			return deliver.Result{Outcome: deliver.Retry, Err: fmt.Errorf("post: %w", errors.Join(err, context.Cause(ctx)))}
		}
	}
	return deliver.Result{}
}

func played(outcome deliver.Outcome, status int) deliver.Result {
	return deliver.Result{Outcome: outcome, Status: status, Err: fmt.Errorf("sink answered %d: simulated by the console", status)}
}
