// Package journal remembers the latest steps of events through the bridge, for
// whoever looks at them: a ring in memory, bounded in number and in bytes, that is
// gone with the process.
//
// It never makes a delivery wait: Add takes a lock that is held for a copy, and
// tells those who follow without waiting for them. One who is too slow finds a gap.
package journal

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"
)

// Kind is what happened.
type Kind string

// Kinds. The first five are of events; the other says that something changed which
// is to be looked up.
const (
	Received   Kind = "received" // it waits for its turn
	Filtered   Kind = "filtered" // the subscription does not want it
	Undecoded  Kind = "schema"   // the schema of its data is not known
	Attempted  Kind = "attempt"
	DeadLetter Kind = "deadletter" // written to the dead-letter topic
	Changed    Kind = "changed"    // a pause, a job on dead letters
)

// Step is one step of one event on its way to one sink. Its texts are cut at maxText.
type Step struct {
	ID           int64         `json:"id"` // 1, 2, 3 ... in this process
	At           time.Time     `json:"at"`
	Kind         Kind          `json:"kind"`
	Subscription string        `json:"subscription,omitempty"`
	Topic        string        `json:"topic,omitempty"` // where the event is; also of one that is redriven
	Partition    int           `json:"partition"`
	Offset       int64         `json:"offset"`
	Event        string        `json:"event_id,omitempty"`
	Type         string        `json:"type,omitempty"`
	Key          string        `json:"key,omitempty"`
	Version      string        `json:"version,omitempty"` // its taskversion
	Published    time.Time     `json:"published,omitzero"`
	Attempt      int           `json:"attempt,omitempty"`
	Outcome      string        `json:"outcome,omitempty"` // of an attempt, as in the metrics; the reason of a dead letter
	Status       int           `json:"status,omitempty"`
	Took         time.Duration `json:"took_ns,omitempty"`
	Error        string        `json:"error,omitempty"`
	Next         time.Time     `json:"next,omitzero"` // attempt
	Batch        int           `json:"batch,omitempty"`
	Redrive      bool          `json:"redrive,omitempty"`
}

const (
	steps   = 8192 // that are kept; with maxText at most 16 MiB, usually 3
	maxText = 400  // bytes of each text of a step
	// Buckets and BucketTime are what Series counts by: a quarter of an hour.
	Buckets    = 60
	BucketTime = 15 * time.Second
)

// Accepted is the outcome of an attempt that Series counts as delivered.
const Accepted = "accepted"

// Journal is the ring. A nil *Journal takes nothing. Use New.
type Journal struct {
	Boot  string    // tells this process's ids from those of another
	Since time.Time // from when on steps are known

	mu        sync.Mutex
	ring      []Step // the step with id n is at (n-1) % steps
	last      int64
	followers map[chan struct{}]struct{}
	series    map[string]*Series
}

// Series is what became of a subscription's attempts, newest bucket last.
type Series struct {
	Accepted, Failed [Buckets]int
	Statuses         map[int]int64 // answers since the start of the process, 0 for none
	newest           int64         // number of the newest bucket since the epoch
}

// New returns an empty journal.
func New() *Journal {
	return &Journal{Boot: rand.Text()[:8], Since: time.Now(), ring: make([]Step, 0, steps), followers: map[chan struct{}]struct{}{}, series: map[string]*Series{}}
}

// Add takes note of a step, and gives it its number.
func (j *Journal) Add(s Step) {
	if j == nil {
		return
	}
	for _, text := range []*string{&s.Event, &s.Type, &s.Key, &s.Version, &s.Error} {
		if len(*text) > maxText {
			*text = strings.Clone((*text)[:maxText]) + "…" // the rest must not be kept alive
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	s.ID = j.last
	if len(j.ring) < steps {
		j.ring = append(j.ring, s)
	} else {
		j.ring[(s.ID-1)%steps] = s
	}
	if s.Kind == Attempted {
		j.count(s)
	}
	for wake := range j.followers {
		select {
		case wake <- struct{}{}:
		default: // it has been told already
		}
	}
}

func (j *Journal) count(s Step) {
	c := j.series[s.Subscription]
	if c == nil {
		c = &Series{Statuses: map[int]int64{}}
		j.series[s.Subscription] = c
	}
	c.advance(s.At)
	if s.Outcome == Accepted {
		c.Accepted[Buckets-1]++
	} else {
		c.Failed[Buckets-1]++
	}
	if len(c.Statuses) < 100 || c.Statuses[s.Status] > 0 {
		c.Statuses[s.Status]++
	}
}

// advance moves the buckets so that the last one is that of now.
func (c *Series) advance(now time.Time) {
	at := now.UnixNano() / int64(BucketTime)
	by := at - c.newest
	switch {
	case by <= 0:
		return
	case by >= Buckets:
		c.Accepted, c.Failed = [Buckets]int{}, [Buckets]int{}
	default:
		for _, b := range []*[Buckets]int{&c.Accepted, &c.Failed} {
			copy(b[:], b[by:])
			clear(b[Buckets-by:])
		}
	}
	c.newest = at
}

// Series is a copy of what is counted for a subscription, as of now.
func (j *Journal) Series(subscription string, now time.Time) Series {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.series[subscription]
	if c == nil {
		return Series{}
	}
	c.advance(now)
	out := *c
	out.Statuses = make(map[int]int64, len(c.Statuses))
	for status, n := range c.Statuses {
		out.Statuses[status] = n
	}
	return out
}

// Forget drops what is counted for a subscription that is gone for good.
func (j *Journal) Forget(subscription string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.series, subscription)
}

// Last is the number of the newest step, 0 for none.
func (j *Journal) Last() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// After appends to into the steps behind after, oldest first, at most limit of
// them. gap says that steps behind after are no longer there.
func (j *Journal) After(after int64, limit int, into []Step) (out []Step, gap bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if oldest := j.last - int64(len(j.ring)); after < oldest {
		after, gap = oldest, true
	}
	for id := after + 1; id <= j.last && limit > 0; id++ {
		into = append(into, j.ring[(id-1)%steps])
		limit--
	}
	return into, gap
}

// Before appends to into the steps before the one numbered before, newest first, at
// most limit of them; 0 begins with the newest.
func (j *Journal) Before(before int64, limit int, into []Step) []Step {
	j.mu.Lock()
	defer j.mu.Unlock()
	if before <= 0 || before > j.last {
		before = j.last + 1
	}
	for id := before - 1; id > j.last-int64(len(j.ring)) && limit > 0; id-- {
		into = append(into, j.ring[(id-1)%steps])
		limit--
	}
	return into
}

// Backwards calls yield for each step, newest first, until it returns false. It
// copies a few at a time, so that nobody who adds one waits for yield.
func (j *Journal) Backwards(yield func(*Step) bool) {
	piece := make([]Step, 0, 128)
	for before := int64(0); ; before = piece[len(piece)-1].ID {
		piece = j.Before(before, cap(piece), piece[:0])
		if len(piece) == 0 {
			return
		}
		for i := range piece {
			if !yield(&piece[i]) {
				return
			}
		}
		if piece[len(piece)-1].ID == 1 {
			return
		}
	}
}

// Follow returns a channel that has a value when there are steps that After was not
// asked for, until leave is called.
func (j *Journal) Follow() (wake <-chan struct{}, leave func()) {
	c := make(chan struct{}, 1)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.followers[c] = struct{}{}
	return c, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.followers, c)
	}
}
