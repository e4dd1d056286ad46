package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// writeTimeout bounds a write with its reading back.
const writeTimeout = 10 * time.Second

// set stores what is wanted and returns when it is read back.
func (c *Control) set(ctx context.Context, g *Gate, want record) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if missing := c.topicMissing(); missing != nil {
		if !want.Paused && g.lift() {
			return nil // nobody else knew of it
		}
		return fmt.Errorf("a pause cannot be stored: %w", missing)
	}
	return c.write(ctx, g, want, func() bool { return true })
}

// write stores a record for g and waits until it is read back, unless it is not
// wanted any more when its turn comes.
func (c *Control) write(ctx context.Context, g *Gate, want record, wanted func() bool) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of a pause: %w", ctx.Err())
	}
	if !wanted() {
		return nil
	}
	id := rand.Text()
	rec, err := want.encode(g.name, id)
	if err != nil {
		return err
	}
	seen := make(chan struct{})
	c.mu.Lock()
	c.pending[id] = seen
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pending, id)
	}()
	if err := c.producer.Produce(ctx, Topic, []event.Record{rec}); err != nil {
		return fmt.Errorf("it is not known whether the change is stored; look at the state and ask again: %w", err)
	}
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return errors.New("the change is stored, but this replica has not read it back yet; it follows when it can read topic " + Topic)
	}
}

func (c *Control) readBack(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seen := c.pending[id]; seen != nil {
		close(seen)
		delete(c.pending, id)
	}
}

// storeGone stores what sinks have asked for, until ctx ends.
func (c *Control) storeGone(ctx context.Context) {
	pace := retry.Backoff{Min: 100 * time.Millisecond, Max: lookAgain}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.gone:
		}
		if err := c.storeAll(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("pause that a sink asked for holds on this replica alone, retrying", "err", err)
			wake(c.gone)
			_ = pace.Wait(ctx) // the loop looks at ctx
			continue
		}
		pace.Reset()
	}
}

func (c *Control) storeAll(ctx context.Context) error {
	var errs []error
	for _, g := range c.all() {
		p := g.unstored()
		if p == nil {
			continue
		}
		if err := c.storeOne(ctx, g, p); err != nil {
			g.explain(p, err)
			errs = append(errs, fmt.Errorf("subscription %s: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Control) storeOne(ctx context.Context, g *Gate, p *Pause) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if missing := c.topicMissing(); missing != nil {
		return missing
	}
	want := record{Paused: true, Reason: p.Reason, By: p.By, At: p.At}
	return c.write(ctx, g, want, func() bool { return g.unstored() != nil })
}

// explain notes why the sink's wish is not stored.
func (g *Gate) explain(p *Pause, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone != nil {
		known := *p
		known.Unstored = kafka.Plain(err).Error()
		g.gone = &known
	}
}

func (c *Control) all() []*Gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	gates := make([]*Gate, 0, len(c.gates))
	for _, g := range c.gates {
		gates = append(gates, g)
	}
	return gates
}

// waiting are the gates that the topic has to be read for. It is not nil.
func (c *Control) waiting() []*Gate {
	select {
	case <-c.joined:
	default:
	}
	return slices.DeleteFunc(c.all(), func(g *Gate) bool { return g.Unread() == nil })
}

// begin prepares for reading a topic with this end. One that was missing, or ends
// before what was there, was deleted and made anew: its offsets say nothing about
// the old ones.
func (c *Control) begin(end int64) {
	c.mu.Lock()
	anew := end < c.end || c.missing != nil
	c.end, c.missing = end, nil
	c.mu.Unlock()
	if !anew {
		return
	}
	for _, g := range c.all() {
		g.mu.Lock()
		g.offset = -1
		g.mu.Unlock()
	}
}

// open marks gates as read.
func (c *Control) open(gates []*Gate) {
	for _, g := range gates {
		g.setUnread(nil)
	}
}

// noTopic: without the topic nobody can have asked for a pause.
func (c *Control) noTopic(missing error) {
	c.mu.Lock()
	known := c.missing != nil
	c.missing = missing
	c.mu.Unlock()
	if !known {
		c.log.Warn("topic of the pauses does not exist, so no subscription can be paused", "err", missing)
	}
	c.open(c.waiting())
}

// unavailable makes err known to the gates that wait for the topic.
func (c *Control) unavailable(err error) {
	for _, g := range c.all() {
		if g.Unread() != nil {
			g.setUnread(fmt.Errorf("%w: %w", errUnread, err))
		}
	}
}

func (c *Control) topicMissing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.missing
}
