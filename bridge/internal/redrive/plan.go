package redrive

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// Plan is what a job would do: how many letters, of how many keys, and for how
// many of them the sink has already taken a newer event of the same key, which
// the old one would then follow.
type Plan struct {
	Letters  int64            `json:"letters"`
	Keys     int              `json:"keys"`
	Newer    int64            `json:"newer"`    // letters with newer events delivered
	AtLeast  bool             `json:"at_least"` // Keys and Newer are lower bounds: there was too much to look at
	Reasons  map[string]int64 `json:"reasons"`
	Types    map[string]int64 `json:"types"`
	Redriven int64            `json:"redriven"` // letters that have failed in a redrive before
	Oldest   time.Time        `json:"oldest,omitzero"`
	Newest   time.Time        `json:"newest,omitzero"`
	Expired  int64            `json:"expired"` // at most this many were deleted by the topic's retention before anybody dealt with them
	Records  int64            `json:"records"` // looked at so far, of letters and events
}

// Bounds of a plan.
const (
	planLetters = 200_000 // that are looked up among the events
	planTypes   = 100
	planEvents  = 2_000_000
	planTime    = 2 * time.Minute
)

// plan is a Plan in the making. It holds the offsets of at most planLetters letters.
type plan struct {
	sub    *pump.Subscription
	chosen deadletter.Selection

	mu      sync.Mutex
	result  Plan
	letters map[place][]int64  // offsets of the events that became letters, of those that are chosen
	open    map[event]struct{} // events that were not delivered: those of all open letters
}

// event is where an event stands.
type event struct {
	partition int
	offset    int64
}

// place is a key of a partition.
type place struct {
	partition int
	key       string
}

func newPlan(s *pump.Subscription, chosen deadletter.Selection) *plan {
	return &plan{sub: s, chosen: chosen, letters: map[place][]int64{}, open: map[event]struct{}{}, result: Plan{Reasons: map[string]int64{}, Types: map[string]int64{}}}
}

// so is the plan so far.
func (p *plan) so() Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.result
	out.Keys = len(p.letters)
	out.Reasons, out.Types = maps.Clone(out.Reasons), maps.Clone(out.Types)
	return out
}

// make reads the letters, then the events behind them. It changes nothing.
func (p *plan) make(ctx context.Context) error {
	box := p.sub.Mailbox()
	positions, err := deadletter.Positions(ctx, box.Client, box.Group, box.Topic, box.Keys)
	if err != nil {
		return err
	}
	for _, at := range positions {
		if at.Wrong != nil {
			return &pump.RefusedError{Reason: "the state of the letters is not to be trusted: " + at.Wrong.Error()}
		}
		p.gone(at.Expired())
		_, err := deadletter.Scan(ctx, box.Client, deadletter.Range{Topic: box.Topic, Partition: at.Partition, From: at.From(), To: at.End}, func(rec fetch.Record) error {
			if l, ok := deadletter.FromRecord(at.Partition, rec); ok && l.Letter.Subscription == p.sub.Name() && !at.Done(rec.Offset) {
				p.add(l, box.Source)
			}
			p.looked()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return p.newer(ctx, box)
}

// gone counts letters that nobody can look at any more.
func (p *plan) gone(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Expired += n
}

func (p *plan) looked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Records++
}

func (p *plan) add(l deadletter.Stored, source string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.Letter.Topic == source && len(p.open) < planLetters {
		p.open[event{l.Letter.Partition, l.Letter.Offset}] = struct{}{}
	}
	if !p.chosen.Match(l) {
		return
	}
	r := &p.result
	r.Letters++
	if _, known := r.Types[l.Type]; known || len(r.Types) < planTypes {
		r.Types[l.Type]++
	}
	if _, known := r.Reasons[l.Letter.Reason]; known || len(r.Reasons) < planTypes {
		r.Reasons[l.Letter.Reason]++
	}
	if l.Letter.Redrives > 0 {
		r.Redriven++
	}
	if last := l.Letter.Last; r.Oldest.IsZero() || last.Before(r.Oldest) {
		r.Oldest = last
	}
	if last := l.Letter.Last; last.After(r.Newest) {
		r.Newest = last
	}
	if r.Letters > planLetters {
		r.AtLeast = true
		return
	}
	at := place{l.Letter.Partition, string(l.Record.Key)}
	if l.Letter.Topic != source || l.Record.Key == nil {
		p.letters[at] = append(p.letters[at], -1) // it has no newer events here
		return
	}
	p.letters[at] = append(p.letters[at], l.Letter.Offset)
}

var errEnough = errors.New("enough was looked at")

// newer looks for events that were delivered after the letters' own. An event
// counts as delivered when it is below the group's offset, or in its map.
func (p *plan) newer(ctx context.Context, box pump.Mailbox) error {
	ctx, cancel := context.WithTimeoutCause(ctx, planTime, errEnough)
	defer cancel()
	first := map[int]int64{}
	for at, offsets := range p.letters {
		for _, o := range offsets {
			if have, known := first[at.partition]; o >= 0 && (!known || o < have) {
				first[at.partition] = o
			}
		}
	}
	delivered, err := deadletter.Positions(ctx, box.Client, box.Delivered, box.Source, box.Keys)
	if err != nil {
		return err
	}
	left := planEvents
	for _, d := range delivered {
		from, wanted := first[d.Partition]
		if !wanted {
			continue
		}
		latest := map[string]int64{}
		_, err := deadletter.Scan(ctx, box.Client, deadletter.Range{Topic: box.Source, Partition: d.Partition, From: max(from, d.First), To: d.End}, func(rec fetch.Record) error {
			if left--; left < 0 {
				return errEnough
			}
			p.looked()
			done := d.Done(rec.Offset)
			if _, letter := p.open[event{d.Partition, rec.Offset}]; letter {
				return nil
			}
			if _, asked := p.letters[place{d.Partition, string(rec.Key)}]; asked && done && p.sub.Wants(d.Partition, rec) {
				latest[string(rec.Key)] = rec.Offset
			}
			return nil
		})
		p.compare(d.Partition, latest, errors.Is(err, errEnough))
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
	}
	return nil
}

func (p *plan) compare(partition int, latest map[string]int64, part bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.AtLeast = p.result.AtLeast || part
	for key, last := range latest {
		for _, o := range p.letters[place{partition, key}] {
			if o >= 0 && o < last {
				p.result.Newer++
			}
		}
	}
}
