package control

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// Gate tells whether a subscription may deliver. Its methods may be called from
// several goroutines.
type Gate struct {
	name string
	c    *Control // nil for one that stands alone

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	unread  error         // why the topic is not read yet; nil when it is
	offset  int64         // of the record that pause is from; -1 for none
	pause   *Pause        // nil when nobody wants one
	gone    *Pause        // what the sink asked for, until its record is read back or the subscription resumed
}

var errUnread = errors.New("topic " + Topic + " is not read yet: it says which subscriptions are paused")

func newGate(name string, c *Control) *Gate {
	return &Gate{name: name, c: c, changed: make(chan struct{}), unread: errUnread, offset: -1}
}

// Alone returns an open gate of this process alone, which forgets.
func Alone() *Gate {
	g := newGate("", nil)
	g.unread = nil
	return g
}

// Get returns why nothing may be posted, nil when it may, and a channel that is
// closed at the next change. The pause must not be changed.
func (g *Gate) Get() (shut *Pause, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.unread != nil:
		return &Pause{Reason: g.unread.Error()}, g.changed
	case g.pause != nil:
		return g.pause, g.changed
	}
	return g.gone, g.changed
}

// Unread is why it is not known whether the subscription is paused, nil when it
// is known.
func (g *Gate) Unread() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unread
}

// Await returns when it is known whether the subscription is paused, or with the
// cause of ctx's end.
func (g *Gate) Await(ctx context.Context) error {
	for {
		g.mu.Lock()
		unread, changed := g.unread, g.changed
		g.mu.Unlock()
		if unread == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Pause pauses the subscription on all replicas, or says why that is not known
// to have happened.
func (g *Gate) Pause(ctx context.Context, reason, by string) error {
	return g.set(ctx, record{Paused: true, Reason: reason, By: by, At: now()})
}

// Resume lets it go on.
func (g *Gate) Resume(ctx context.Context, reason, by string) error {
	return g.set(ctx, record{Reason: reason, By: by, At: now()})
}

func (g *Gate) set(ctx context.Context, want record) error {
	if g.c == nil {
		g.apply(0, &want)
		return nil
	}
	return g.c.set(ctx, g, want)
}

// now is what a record can hold: milliseconds are more than anybody wants to know.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// Gone pauses at once on this replica, because the sink asks never to be called
// again, and on the others as soon as that can be stored. A pause that is there
// already stays.
func (g *Gate) Gone(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pause != nil || g.gone != nil {
		return
	}
	g.gone = &Pause{Reason: why.Error(), By: "sink", At: now()}
	if g.c != nil {
		g.gone.Unstored = "not stored yet"
		wake(g.c.gone)
	}
	g.change()
}

// apply takes over what a record says. A record that was read before is passed over.
func (g *Gate) apply(offset int64, want *record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.c != nil && offset <= g.offset {
		return
	}
	g.offset = offset
	was := g.pause != nil || g.gone != nil
	g.pause, g.gone = nil, nil
	if want != nil && want.Paused {
		g.pause = &Pause{Reason: cmp.Or(want.Reason, "no reason given"), By: cmp.Or(want.By, "somebody"), At: want.At}
	}
	if g.c != nil && g.pause != nil {
		g.c.log.Info("subscription is paused", "subscription", g.name, "reason", want.Reason, "by", want.By, "at", want.At)
	}
	if g.c != nil && was && want != nil && g.pause == nil {
		g.c.log.Info("subscription is resumed", "subscription", g.name, "reason", want.Reason, "by", want.By, "at", want.At)
	}
	g.change()
}

// change needs mu.
func (g *Gate) change() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Gate) setUnread(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unread = why
	g.change()
}

// unstored is the sink's wish as long as it has to be stored, or to be read back.
func (g *Gate) unstored() *Pause {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

// lift drops a pause that is on no topic. It reports whether nothing else
// pauses the subscription.
func (g *Gate) lift() (open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pause != nil || g.gone == nil {
		return false
	}
	g.gone = nil
	g.change()
	return true
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
