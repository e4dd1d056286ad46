package app

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
)

// fleet is the subscriptions that are to run, and those that are leaving.
//
// # Order of effects of a change
//
// First every new subscription is made, which opens its secrets and has no other
// effect: when one of them fails, nothing has changed. Then those that changed or
// are gone are asked to stop: each drains, commits and leaves its group. A new one
// joins when whoever had its name or its group has left: of two members under one
// instance id the group would take the younger for the older and end it, and two
// of one name would share their metrics. Others do not wait, and those that did
// not change are not touched.
//
// The process may die at any point of this. It starts with the file as it is then,
// and the groups have what was committed.
type fleet struct {
	build  func(Subscription) (*pump.Subscription, error)
	forget func(name string) // what is kept of a subscription that is gone

	mu      sync.Mutex
	members []*member // in the order of the file
	leaving []*member
}

// member is one subscription with one set of settings. stop and after are owned by
// the goroutine that calls apply and launch.
type member struct {
	settings Subscription
	sub      *pump.Subscription
	stop     context.CancelFunc // nil before launch
	after    []*member          // who must have left before it joins
	done     chan struct{}      // closed when it has left
}

// applied is what became of the subscriptions, by name.
type applied struct{ kept, started, stopped []string }

var errWaits = errors.New("waits until the subscription that had its name or its group has drained and left")

// apply makes next the subscriptions that are to run. Of those that are new none
// runs before launch. When it fails nothing has changed.
func (f *fleet) apply(next []Subscription) (applied, error) {
	f.mu.Lock()
	before := f.members
	f.mu.Unlock()
	var out applied
	members := make([]*member, len(next))
	for i, settings := range next {
		if k := slices.IndexFunc(before, func(m *member) bool { return reflect.DeepEqual(m.settings, settings) }); k >= 0 {
			members[i] = before[k]
			out.kept = append(out.kept, settings.Name)
			continue
		}
		sub, err := f.build(settings)
		if err != nil {
			return applied{}, err
		}
		members[i] = &member{settings: settings, sub: sub, done: make(chan struct{})}
		out.started = append(out.started, settings.Name)
	}
	for _, m := range f.replace(members) {
		out.stopped = append(out.stopped, m.settings.Name)
		m.stop()
	}
	return out, nil
}

// replace puts members in force and returns those that are to stop.
func (f *fleet) replace(members []*member) []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := slices.DeleteFunc(slices.Clone(f.members), func(m *member) bool { return slices.Contains(members, m) })
	f.members, f.leaving = members, append(f.leaving, old...)
	for _, m := range members {
		if m.stop != nil {
			continue
		}
		for _, o := range f.leaving {
			if o.settings.Name == m.settings.Name || o.settings.Group == m.settings.Group {
				m.after = append(m.after, o)
			}
		}
		if len(m.after) > 0 {
			m.sub.WaitsFor(errWaits)
		}
	}
	return old
}

// launch starts what apply has made. An error of one subscription ends group, and
// with it all of them.
func (f *fleet) launch(ctx context.Context, group *errgroup.Group) {
	for _, m := range f.wanted() {
		if m.stop != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		m.stop = stop
		group.Go(func() error {
			defer stop()
			defer f.left(m)
			return m.run(own)
		})
	}
}

// run ends when the subscription has left its group, or never joins.
func (m *member) run(ctx context.Context) error {
	for _, o := range m.after {
		select {
		case <-o.done:
		case <-ctx.Done():
			return nil
		}
	}
	m.after = nil
	return m.sub.Run(ctx)
}

// left forgets a subscription that is gone, unless another has its name. It does so
// before that one may begin.
func (f *fleet) left(m *member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaving = slices.DeleteFunc(f.leaving, func(o *member) bool { return o == m })
	if !slices.ContainsFunc(slices.Concat(f.members, f.leaving), func(o *member) bool { return o.settings.Name == m.settings.Name }) {
		f.forget(m.settings.Name)
	}
	close(m.done)
}

func (f *fleet) wanted() []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members // replaced as a whole, never changed
}

// subscriptions are those that are to run now, in the order of the file.
func (f *fleet) subscriptions() []*pump.Subscription {
	members := f.wanted()
	out := make([]*pump.Subscription, len(members))
	for i, m := range members {
		out[i] = m.sub
	}
	return out
}

// checks are for /readyz.
func (f *fleet) checks() []httpd.Check {
	subs := f.subscriptions()
	out := make([]httpd.Check, len(subs))
	for i, s := range subs {
		out[i] = httpd.Check{Name: "subscription " + s.Name(), Func: s.Ready}
	}
	return out
}
