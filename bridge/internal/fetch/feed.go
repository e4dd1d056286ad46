package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/taskwire/taskwire/internal/kafka"
)

const (
	// requestTimeout bounds one request beside its long poll, with the wait for memory.
	requestTimeout = 10 * time.Second
	// lookupTimeout bounds the question for first offsets.
	lookupTimeout = 10 * time.Second
)

// ErrNoMemory says that other partitions hold all the memory there is for answers.
var ErrNoMemory = fmt.Errorf("no memory for an answer within %v: raise MEMORY_BUDGET", requestTimeout)

// FeedConfig is what a Feed fetches, and how much of it.
type FeedConfig struct {
	Topic   string
	MaxWait time.Duration // of a long poll

	// Sizes is how many bytes to ask for: of one partition, and in one answer. A
	// broker may send one batch of a partition whatever its size.
	Sizes func() (partition, answer int)
	// Grant is called before the batches of a partition are read. It returns what to
	// give back with Release, and may block until there is room.
	Grant   func(ctx context.Context, size int) (int64, error)
	Release func(granted int64)
}

// Feed fetches for all partitions of a topic that a member has. A request names
// every partition of a broker whose records are wanted, so a broker has one long
// poll to hold, however many partitions there are. What comes is handed out
// partition by partition, while the rest of the answer is still being read.
//
// # Who is fetched
//
// A partition is fetched while a call of Next waits for it, and only then. So one
// that is slow, full or revoked is left out of the next request, and holds nothing
// up but itself. An answer belongs to the call that its request was made for, never
// to a later one of the same partition: that may begin at another offset, and what
// lies between would be skipped.
//
// # How many requests
//
// A request on the wire cannot be changed. A partition that comes back while a long
// poll without it is under way goes into a second request, for as long as the first
// one lasts, so that both end together and become one again. The last of a broker's
// places is for short polls: whoever comes while all are taken waits that long.
//
// # Memory
//
// An answer's batches are asked for, read and handed out one partition after the
// other, so whoever is granted memory also gets its records and can give it back.
// Nothing waits for memory while it holds some that nobody uses.
type Feed struct {
	client    *kafkago.Client
	transport *kafka.Transport
	cfg       FeedConfig
	wake      chan struct{}

	mu      sync.Mutex
	fresh   []*ask          // the first offset is wanted
	looking bool            // for first offsets
	waiting []*ask          // in the order in which they are to be served
	lanes   map[int32]*lane // by broker
}

// ask is one call of Next.
type ask struct {
	partition int
	offset    int64
	end       int64 // what the caller knows
	answer    chan reply

	over bool // answered, or nobody waits any more; guarded by Feed.mu
}

type reply struct {
	Answer
	err error
}

// NewFeed returns a feed; nothing is fetched before Run. client is one of kafka.NewClient.
func NewFeed(client *kafkago.Client, cfg FeedConfig) (*Feed, error) {
	transport, ok := client.Transport.(*kafka.Transport)
	if !ok {
		return nil, errors.New("fetch needs a client of kafka.NewClient")
	}
	return &Feed{client: client, transport: transport, cfg: cfg, wake: make(chan struct{}, 1), lanes: map[int32]*lane{}}, nil
}

// Next returns the records of a partition from offset on, as soon as there are any;
// without records, as soon as the partition's end is not end. offset is
// kafkago.FirstOffset for the first there is. The caller gives Answer.Granted back.
// Errors of the broker are kafkago.Error values. One call for a partition at a time.
func (f *Feed) Next(ctx context.Context, partition int, offset, end int64) (Answer, error) {
	a := &ask{partition: partition, offset: offset, end: end, answer: make(chan reply, 1)}
	f.mu.Lock()
	if offset < 0 {
		f.fresh = append(f.fresh, a)
	} else {
		f.waiting = append(f.waiting, a)
	}
	for _, l := range f.lanes {
		delete(l.awaited, partition)
	}
	f.mu.Unlock()
	f.look()
	select {
	case r := <-a.answer:
		return r.Answer, r.err
	case <-ctx.Done():
	}
	if !f.claim(a) {
		f.cfg.Release((<-a.answer).Granted)
	}
	return Answer{}, context.Cause(ctx)
}

// claim reports whether a was open until now.
func (f *Feed) claim(a *ask) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := !a.over
	a.over = true
	return open
}

// fail answers all of asks that are open.
func (f *Feed) fail(asks []*ask, err error) {
	for _, a := range asks {
		if f.claim(a) {
			a.answer <- reply{err: err}
		}
	}
}

func (f *Feed) look() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run fetches until ctx ends. Then it returns without waiting for brokers.
func (f *Feed) Run(ctx context.Context) {
	var requests sync.WaitGroup
	defer requests.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if at := f.plan(ctx, &requests); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-timer.C:
		}
	}
}

// plan starts the requests that may start now. It returns when to look again, zero
// if the clock does not matter.
func (f *Feed) plan(ctx context.Context, requests *sync.WaitGroup) (again time.Time) {
	f.lookUp(ctx, requests)
	if !f.anyWaits() {
		return time.Time{}
	}
	leadersCtx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	leaders, err := kafka.TopicLeaders(leadersCtx, f.client, f.cfg.Topic)
	if err != nil {
		if ctx.Err() == nil {
			f.lost(f.takeWaiting(), err)
		}
		return time.Time{}
	}
	groups, leaderless := f.byLeader(leaders)
	for _, bad := range leaderless {
		f.fail([]*ask{bad.ask}, bad.err)
	}
	if len(leaderless) > 0 {
		kafka.Forget(f.client)
	}
	now := time.Now()
	for broker, asks := range groups {
		wait, at := f.may(broker, now)
		if !at.IsZero() {
			if again.IsZero() || at.Before(again) {
				again = at
			}
			continue
		}
		if wait > 0 {
			f.start(ctx, requests, broker, asks, wait)
		}
	}
	return again
}

// lost answers with an error of the connection or of the cluster's state: a leader
// may have moved.
func (f *Feed) lost(asks []*ask, err error) {
	kafka.Forget(f.client)
	f.fail(asks, err)
}

func (f *Feed) anyWaits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = open(f.waiting)
	return len(f.waiting) > 0
}

func (f *Feed) takeWaiting() []*ask {
	f.mu.Lock()
	defer f.mu.Unlock()
	asks := f.waiting
	f.waiting = nil
	return asks
}

// open drops the asks that are over. It needs the lock.
func open(asks []*ask) []*ask {
	kept := asks[:0]
	for _, a := range asks {
		if !a.over {
			kept = append(kept, a)
		}
	}
	clear(asks[len(kept):])
	return kept
}

type leaderlessAsk struct {
	ask *ask
	err error
}

// byLeader groups what waits. Asks without a leader wait no longer.
func (f *Feed) byLeader(leaders kafka.Leaders) (groups map[int32][]*ask, leaderless []leaderlessAsk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	groups = map[int32][]*ask{}
	kept := f.waiting[:0]
	for _, a := range f.waiting {
		leader, err := leaders.Of(int32(a.partition))
		if err != nil {
			leaderless = append(leaderless, leaderlessAsk{a, err})
			continue
		}
		kept = append(kept, a)
		groups[leader] = append(groups[leader], a)
	}
	clear(f.waiting[len(kept):])
	f.waiting = kept
	return groups, leaderless
}

// lookUp finds the first offsets of partitions that have none, all in one question.
func (f *Feed) lookUp(ctx context.Context, requests *sync.WaitGroup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fresh = open(f.fresh)
	if f.looking || len(f.fresh) == 0 {
		return
	}
	asks := f.fresh
	f.fresh, f.looking = nil, true
	requests.Go(func() {
		defer f.look()
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		ids := make([]int, len(asks))
		for i, a := range asks {
			ids[i] = a.partition
		}
		first, err := kafka.FirstOffsets(ctx, f.client, f.cfg.Topic, ids)
		f.found(asks, first, err)
	})
}

func (f *Feed) found(asks []*ask, first map[int]kafka.Offset, err error) {
	var known []*ask
	for _, a := range asks {
		if why := errors.Join(err, first[a.partition].Err); why != nil {
			f.fail([]*ask{a}, fmt.Errorf("look up the first offset: %w", why))
			continue
		}
		known = append(known, a)
	}
	if len(known) < len(asks) {
		kafka.Forget(f.client)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looking = false
	for _, a := range known {
		a.offset = first[a.partition].Offset
	}
	f.waiting = append(f.waiting, known...)
}

// start sends a request for asks, which wait no longer.
func (f *Feed) start(ctx context.Context, requests *sync.WaitGroup, broker int32, asks []*ask, wait time.Duration) {
	most, all := f.cfg.Sizes()
	p := &poll{feed: f, broker: broker, asks: make(map[int32]*ask, len(asks))}
	wants := make([]fetchapi.RequestPartition, 0, len(asks))
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.order = open(asks); len(p.order) == 0 {
		return
	}
	for _, a := range p.order {
		p.asks[int32(a.partition)] = a
		wants = append(wants, wanted(a.partition, a.offset, most))
	}
	f.waiting = without(f.waiting, p.asks)
	f.lanes[broker].began(p, len(wants), wait)
	requests.Go(func() { p.run(ctx, request(wait, max(most, all), f.cfg.Topic, wants)) })
}

// without removes asks. It needs the lock.
func without(waiting []*ask, asks map[int32]*ask) []*ask {
	kept := waiting[:0]
	for _, a := range waiting {
		if asks[int32(a.partition)] != a {
			kept = append(kept, a)
		}
	}
	clear(waiting[len(kept):])
	return kept
}
