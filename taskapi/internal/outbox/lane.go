package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	batchRows  = 1000
	batchBytes = 512 << 10 // stays below the 1 MiB that brokers accept as one batch by default
	// attempt bounds one produce, so that an outage is noticed and logged.
	attempt = 5 * time.Second
	// patience is how long a batch waits for its slowest partition before the
	// relay goes on without it. It decides nothing but the size of the next batch.
	patience = 250 * time.Millisecond
	// pauseMax is short, because a partition waits that long after its leader is back.
	pauseMax = time.Second
)

// lane is what the relay holds of one partition of the topic.
//
// All events of a task have the same key, so they are in one lane, and a lane
// produces its rows in id order, one batch at a time: no later row of it is read
// before the earlier ones are marked. Between lanes there is no order to keep. A
// lane whose leader is down holds on to its batch, which the producer then sends
// again under the same sequence numbers, and its other rows stay in the outbox.
type lane struct {
	rows []Row // read and not marked; none: the lane is free
	busy bool  // a produce is under way
	// behind is the first row that was passed over because the lane was not free,
	// 0 for none. Such a lane takes no newer row before it has taken that one.
	behind  int64
	failing bool // the last attempt failed
	slow    bool // patience has run out with it, or it is failing: batches do not wait for it
	backoff retry.Backoff
	again   time.Time // not before
}

func (l *lane) free() bool { return len(l.rows) == 0 }

// outcome is the end of an attempt.
type outcome struct {
	lane  int
	acked []bool // by row; nil for all or, with an error, none
	err   error
}

// idle reports whether no lane holds or lacks a row.
func (r *Relay) idle() bool {
	return !slices.ContainsFunc(r.lanes, func(l lane) bool { return !l.free() || l.behind > 0 })
}

// shape makes one lane for each partition. Only while all lanes are idle: with
// another number of partitions the rows of a task belong to another lane, which
// could overtake this one. Until then the producer may place a lane's records in
// several partitions, which keeps their order too, since it keeps that of a call.
func (r *Relay) shape(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	n, err := r.publisher.Partitions(ctx, r.cfg.Topic)
	if err != nil {
		r.prepared = false // perhaps the topic is gone; preparing again finds the reason
		return fmt.Errorf("publish to %s: %w", r.cfg.Topic, err)
	}
	r.front, r.settled = 0, 0
	if n == len(r.lanes) {
		return nil
	}
	r.lanes = make([]lane, n)
	for i := range r.lanes {
		r.lanes[i].backoff = retry.Backoff{Min: 100 * time.Millisecond, Max: pauseMax}
	}
	r.done = make(chan outcome, n)
	return nil
}

// gather gives free lanes their next rows and reports whether there were any
// rows to look at. It reads from two places: from where the lanes that were
// passed over have to catch up, and what no lane has seen, so that neither
// a long backlog of one partition nor new events of the others delay each other.
// Rows of lanes that are not free are passed over and stay in the outbox, so
// memory is bounded by a page for each lane.
func (r *Relay) gather(ctx context.Context) (found bool, err error) {
	free := make([]bool, len(r.lanes))
	from := int64(0) // the first row to catch up with
	for i, l := range r.lanes {
		free[i] = l.free()
		if free[i] && l.behind > 0 && (from == 0 || l.behind < from) {
			from = l.behind
		}
	}
	if !slices.Contains(free, true) {
		return false, nil
	}
	if from > 0 {
		if err := r.catchUp(ctx, free, from); err != nil {
			return false, err
		}
	}
	fresh, err := r.advance(ctx, free)
	return fresh || from > 0, err
}

// advance reads on from what is settled and reports whether it has seen anything
// new. Where rows appear late, those between settled and the front are looked at
// again: a late row is taken like a new one, since no row of its task that was
// seen before comes after it. All others there are held by a lane, or belong to
// one that is behind; when they fill a page, the next page is read.
func (r *Relay) advance(ctx context.Context, free []bool) (fresh bool, err error) {
	held := r.held()
	settled := int64(-1) // by the first page: rows of a later one may have appeared in between
	for after := r.settled; ; {
		page, err := r.source.Next(ctx, after, batchRows, batchBytes)
		if err != nil || len(page.Rows) == 0 {
			return false, err
		}
		if settled < 0 {
			settled = page.Settled
		}
		for _, row := range page.Rows {
			fresh = r.look(row, free, held) || fresh
		}
		after = page.Rows[len(page.Rows)-1].ID
		r.front = max(r.front, after)
		r.settled = max(r.settled, min(settled, after))
		if fresh {
			return true, nil
		}
	}
}

// look gives a row to its lane, or notes that the lane is behind with it. It
// returns false when that was done before.
func (r *Relay) look(row Row, free []bool, held map[int64]bool) (fresh bool) {
	i := r.laneOf(row)
	switch l := &r.lanes[i]; {
	case held[row.ID]:
		return false
	case free[i] && l.behind == 0:
		l.rows = append(l.rows, row)
	case l.behind == 0 || row.ID < l.behind:
		l.behind = row.ID
	default:
		return row.ID > r.front
	}
	return true
}

// held are the rows in lanes that advance may read again.
func (r *Relay) held() map[int64]bool {
	if r.settled == r.front {
		return nil
	}
	held := map[int64]bool{}
	for _, l := range r.lanes {
		for _, row := range l.rows {
			held[row.ID] = true
		}
	}
	return held
}

// catchUp gives free lanes rows between from and the front. A lane that has
// reached the front is behind no longer.
func (r *Relay) catchUp(ctx context.Context, free []bool, from int64) error {
	page, err := r.source.Next(ctx, from-1, batchRows, batchBytes)
	if err != nil {
		return err
	}
	end := r.front
	if n := len(page.Rows); n > 0 {
		end = min(end, page.Rows[n-1].ID)
	}
	for _, row := range page.Rows {
		i := r.laneOf(row)
		if l := &r.lanes[i]; row.ID <= end && free[i] && l.behind > 0 && row.ID >= l.behind {
			l.rows = append(l.rows, row)
		}
	}
	for i := range r.lanes {
		switch l := &r.lanes[i]; {
		case !free[i] || l.behind == 0:
		case end == r.front:
			l.behind = 0
		default:
			l.behind = max(l.behind, end+1)
		}
	}
	return nil
}

func (r *Relay) laneOf(row Row) int { return r.publisher.Partition(row.TaskID, len(r.lanes)) }

// dispatch starts an attempt of each lane that has rows and need not wait.
func (r *Relay) dispatch(ctx context.Context) {
	now := time.Now()
	for i := range r.lanes {
		l := &r.lanes[i]
		if l.free() || l.busy || now.Before(l.again) {
			continue
		}
		l.busy = true
		r.busy++
		rows, failing, done := l.rows, l.failing, r.done
		go func() { // waited for: Run and Flush take its outcome before they return
			acked, err := r.attempt(ctx, i, rows, failing)
			done <- outcome{i, acked, err}
		}()
	}
}

// attempt is one produce. A stop does not cut off a batch in flight, since its
// answer saves a duplicate; the deadline of a flush does. During an outage no
// answer can be expected, and the stop need not wait for it.
func (r *Relay) attempt(ctx context.Context, lane int, rows []Row, failing bool) (acked []bool, err error) {
	until := time.Now().Add(attempt)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	if !failing {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if failing && r.cfg.Prepare != nil { // perhaps the topic is gone
		if err := r.cfg.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	recs, err := r.records(rows)
	if err != nil {
		return nil, err
	}
	span := r.span(lane, rows)
	err = r.publisher.Produce(ctx, r.cfg.Topic, recs)
	span.End(err)
	if partial := (*PartialError)(nil); errors.As(err, &partial) {
		acked = partial.Acked
	}
	if err != nil {
		err = fmt.Errorf("publish %d events to %s: %w", len(rows), r.cfg.Topic, err)
	}
	return acked, err
}

// collect waits until every lane that is not slow has answered, or patience has
// run out with it. It reports whether any has.
func (r *Relay) collect(ctx context.Context) (any bool) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for slices.ContainsFunc(r.lanes, func(l lane) bool { return l.busy && !l.slow }) {
		select {
		case o := <-r.done:
			r.settle(ctx, o)
			any = true
		case <-limit.C:
			for i := range r.lanes {
				r.lanes[i].slow = r.lanes[i].slow || r.lanes[i].busy
			}
			return any
		}
	}
	return any
}

// settle takes the outcome of an attempt. What is acknowledged has yet to be marked.
func (r *Relay) settle(ctx context.Context, o outcome) {
	l := &r.lanes[o.lane]
	l.busy = false
	r.busy--
	var left []Row
	for i, row := range l.rows {
		if o.err == nil || o.acked != nil && o.acked[i] {
			r.unmarked = append(r.unmarked, row.ID)
		} else {
			left = append(left, row)
		}
	}
	l.rows, l.failing, l.slow = left, o.err != nil, o.err != nil
	if o.err == nil {
		l.backoff.Reset()
		return
	}
	l.again = time.Now().Add(l.backoff.Delay())
	r.lastErr = o.err
	r.failed(ctx, o.err)
}

// mark stores what is acknowledged. Until it has succeeded nothing is read, since
// a row that is not marked would come again.
func (r *Relay) mark(ctx context.Context) error {
	ids := r.unmarked
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids) // the rows of several lanes are one run again
	failpoint.Hit("R3")
	if len(ids) > 1 {
		failpoint.HitAfter("R4", func() { _ = r.source.Published(ctx, ids[:len(ids)/2]) })
	}
	if err := r.source.Published(context.WithoutCancel(ctx), ids); err != nil {
		return fmt.Errorf("mark %d events as published: %w", len(ids), err)
	}
	r.published.Add(float64(len(ids)))
	r.marked += int64(len(ids))
	r.unmarked = ids[:0]
	failpoint.Hit("R5")
	return nil
}
