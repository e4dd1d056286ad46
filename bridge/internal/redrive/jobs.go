// Package redrive runs what operators do with the dead letters of a subscription:
// redrive, ignore, and the dry runs that say what either would do.
//
// A job lives in the bridge, not in the command that asked for it: a connection
// that breaks does not stop it. It is not stored. When the bridge dies the job is
// gone, and what it has done is in Kafka, see pump.Redrive: the same request again
// goes on where it ended.
package redrive

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// Request is what an operator wants.
type Request struct {
	Kind         Kind
	Subscription string
	Select       deadletter.Selection
	DryRun       bool
	Rate         float64 // posts per second; 0 for the subscription's own limit
	Reason, By   string
}

// Kind is what becomes of the selected letters.
type Kind string

// Kinds.
const (
	Redrive Kind = "redrive"
	Ignore  Kind = "ignore"
)

// State is how a job stands.
type State string

// States. The last four are final.
const (
	Running   State = "running"
	Done      State = "done"
	Stopped   State = "stopped"   // it could not go on; the reason says why
	Cancelled State = "cancelled" // by an operator
	Failed    State = "failed"
)

// View is a job as operators see it.
type View struct {
	ID           string               `json:"id"`
	Kind         Kind                 `json:"kind"`
	Subscription string               `json:"subscription"`
	By           string               `json:"by"`
	Select       deadletter.Selection `json:"select"`
	DryRun       bool                 `json:"dry_run"`
	State        State                `json:"state"`
	Reason       string               `json:"reason,omitempty"`
	Started      time.Time            `json:"started"`
	Ended        time.Time            `json:"ended,omitzero"`
	Progress     *pump.Progress       `json:"progress,omitempty"`
	Plan         *Plan                `json:"plan,omitempty"`
}

// maxJobs bounds how many jobs that have ended are remembered.
const maxJobs = 100

// Jobs runs at most one job for each subscription at a time. Use New.
type Jobs struct {
	find func(name string) *pump.Subscription
	all  func() []*pump.Subscription
	log  *slog.Logger

	// Ended is called when a job has ended; it is set before Run, nil for nobody.
	Ended func()

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of Run; nil before and after: jobs outlive requests, not it
	wg      sync.WaitGroup
	jobs    []*job          // oldest first
	working map[string]*job // by subscription
}

type job struct {
	Request
	id      string
	started time.Time
	pass    *pump.Redrive
	plan    *plan
	cancel  context.CancelCauseFunc
	over    chan struct{} // closed when it has ended, after what follows is set
	ended   time.Time
	state   State
	reason  string
}

// New returns jobs over the subscriptions that all returns.
func New(all func() []*pump.Subscription, log *slog.Logger) *Jobs {
	j := &Jobs{all: all, log: log, working: map[string]*job{}}
	j.find = func(name string) *pump.Subscription {
		for _, s := range all() {
			if s.Name() == name {
				return s
			}
		}
		return nil
	}
	return j
}

// Run lets jobs begin, and keeps the state of the letters up to date, until ctx
// ends. It returns when the last job has ended.
func (j *Jobs) Run(ctx context.Context) error {
	j.mu.Lock()
	j.ctx = ctx
	j.mu.Unlock()
	j.follow(ctx)
	j.mu.Lock()
	j.ctx = nil
	j.mu.Unlock()
	j.wg.Wait()
	return nil
}

// ErrUnknown says that there is no such subscription.
var ErrUnknown = errors.New("no subscription with this name; see GET /subscriptions")

var (
	errCancelled = errors.New("cancelled by an operator")
	errStopping  = &pump.RefusedError{Reason: "the bridge is starting or stopping; ask again"}
)

// Start begins a job. It refuses with a *pump.RefusedError, or ErrUnknown.
func (j *Jobs) Start(r Request) (View, error) {
	s := j.find(r.Subscription)
	if s == nil {
		return View{}, ErrUnknown
	}
	if why := s.Paused(); why != "" && r.Kind == Redrive && !r.DryRun {
		return View{}, &pump.RefusedError{Reason: "the subscription is paused (" + why + "); resume it first"}
	}
	one := &job{Request: r, id: rand.Text(), started: time.Now(), over: make(chan struct{}), state: Running}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx == nil {
		return View{}, errStopping
	}
	if other := j.working[r.Subscription]; other != nil {
		return View{}, &pump.RefusedError{Reason: fmt.Sprintf("job %s, a %s by %s, works on the letters of this subscription since %s; wait for its end, or cancel it with DELETE /deadletters/jobs/%s",
			other.id, other.Kind, other.By, other.started.UTC().Format(time.RFC3339), other.id)}
	}
	ctx, cancel := context.WithCancelCause(j.ctx)
	one.cancel = cancel
	run := one.do(s, j.log)
	j.working[r.Subscription] = one
	j.remember(one)
	j.wg.Go(func() {
		defer cancel(nil)
		j.end(one, run(ctx))
	})
	j.log.Info("job on dead letters started", "job", one.id, "kind", r.Kind, "subscription", r.Subscription, "dry_run", r.DryRun, "select", r.Select, "rate", r.Rate,
		"by", r.By, "reason", r.Reason)
	return one.view(), nil
}

// do prepares what the job does.
func (one *job) do(s *pump.Subscription, log *slog.Logger) func(context.Context) error {
	if one.DryRun {
		one.plan = newPlan(s, one.Select)
		return one.plan.make
	}
	one.pass = &pump.Redrive{Select: one.Select.Match, Rate: one.Rate}
	if one.Kind == Ignore {
		one.pass.Ignore = &pump.Ignored{Reason: one.Reason, By: one.By}
	}
	return func(ctx context.Context) error { return s.Redrive(ctx, one.pass) }
}

// remember forgets the oldest jobs that have ended.
func (j *Jobs) remember(one *job) {
	j.jobs = append(j.jobs, one)
	for i := 0; len(j.jobs) > maxJobs && i < len(j.jobs); i++ {
		if j.jobs[i].state != Running {
			j.jobs = slices.Delete(j.jobs, i, i+1)
			return
		}
	}
}

func (j *Jobs) end(one *job, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	one.ended = time.Now()
	var refused *pump.RefusedError
	switch {
	case err == nil:
		one.state = Done
	case errors.Is(err, errCancelled):
		one.state, one.reason = Cancelled, err.Error()
	case errors.As(err, &refused):
		one.state, one.reason = Stopped, refused.Reason
	case errors.Is(err, context.Canceled):
		one.state, one.reason = Stopped, "the bridge was stopped; ask again for the rest"
	default:
		one.state, one.reason = Failed, err.Error()
	}
	delete(j.working, one.Subscription)
	v := one.seen()
	j.log.Info("job on dead letters ended", "job", one.id, "kind", one.Kind, "subscription", one.Subscription, "state", one.state, "reason", one.reason, "progress", v.Progress, "plan", v.Plan)
	close(one.over)
	if j.Ended != nil {
		j.Ended()
	}
}

// List is all jobs that are known, oldest first.
func (j *Jobs) List() []View {
	j.mu.Lock()
	defer j.mu.Unlock()
	views := []View{}
	for _, one := range j.jobs {
		views = append(views, one.seen())
	}
	return views
}

func (j *Jobs) get(id string) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, one := range j.jobs {
		if one.id == id {
			return one
		}
	}
	return nil
}

// Get returns a job as it stands; ok is false when there is none.
func (j *Jobs) Get(id string) (v View, ok bool) {
	one := j.get(id)
	if one == nil {
		return View{}, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return one.seen(), true
}

// Await returns a job when it has ended or ctx ends; ok is false when there is none.
func (j *Jobs) Await(ctx context.Context, id string) (v View, ok bool) {
	one := j.get(id)
	if one == nil {
		return View{}, false
	}
	select {
	case <-one.over:
	case <-ctx.Done():
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return one.seen(), true
}

// Cancel ends a job: posts in flight finish and are marked, the rest stays open.
// It does not wait for that.
func (j *Jobs) Cancel(id, by string) bool {
	one := j.get(id)
	if one == nil {
		return false
	}
	j.log.Warn("job on dead letters cancelled", "job", id, "by", by)
	one.cancel(errCancelled)
	return true
}

// view is the job before anything has ended it.
func (one *job) view() View {
	v := View{ID: one.id, Kind: one.Kind, Subscription: one.Subscription, By: one.By, Select: one.Select, DryRun: one.DryRun, State: one.state, Reason: one.reason,
		Started: one.started, Ended: one.ended}
	return v
}

// seen is the job with what it has done so far. The lock of Jobs is held.
func (one *job) seen() View {
	v := one.view()
	if one.pass != nil {
		p := one.pass.Progress()
		v.Progress = &p
		v.Reason = cmp.Or(v.Reason, p.Problem)
	}
	if one.plan != nil {
		p := one.plan.so()
		v.Plan = &p
	}
	return v
}
