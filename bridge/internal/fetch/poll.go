package fetch

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/taskwire/taskwire/internal/kafka"
)

// poll is one request of a feed to one broker.
type poll struct {
	feed   *Feed
	broker int32
	asks   map[int32]*ask // by partition
	order  []*ask

	ends      time.Time // when a long poll without news ends; guarded by Feed.mu
	answering bool      // its answer has begun; guarded by Feed.mu

	// mu is held while a part of the answer is dealt with: the library may give a
	// request up while its connection still reads the answer.
	mu       sync.Mutex
	over     bool
	granted  int64 // for what is being read
	noMemory bool  // the rest of the answer was not read
	moved    bool  // a partition was refused: its leader may have moved
}

// run sends the request. What the answer has not served waits again, in front: who
// was left out for want of room comes first the next time.
func (p *poll) run(running context.Context, r fetchapi.Request) {
	ctx, cancel := context.WithTimeout(running, time.Duration(r.MaxWaitTime)*time.Millisecond+requestTimeout)
	defer cancel()
	f := p.feed
	_, err := f.transport.RoundTrip(ctx, f.client.Addr, &exchange{
		ctx: ctx, clientID: f.transport.ClientID, broker: p.broker, Request: r,
		room: func(said part) ([]byte, error) { return p.room(ctx, said) }, took: p.took,
	})
	noMemory, moved := p.close()
	switch {
	case running.Err() != nil: // nobody waits any more
	case noMemory: // no fault of the broker's
	case err != nil:
		f.lost(p.order, err)
	case moved:
		kafka.Forget(f.client)
	}
	f.ended(p, err)
}

// close ends the handing out. Nothing of the answer is used after it.
func (p *poll) close() (noMemory, moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.feed.cfg.Release(p.granted)
	p.granted = 0
	return p.noMemory, p.moved
}

// room takes what an answer says of a partition. It returns memory for its batches
// if somebody waits for them.
func (p *poll) room(ctx context.Context, said part) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, a := p.feed, p.asks[said.partition]
	switch {
	case p.over:
		return nil, errGivenUp
	case a == nil || f.isOver(a):
		return nil, nil
	case said.code != 0:
		p.moved = p.moved || said.code != int16(kafkago.OffsetOutOfRange)
		f.fail([]*ask{a}, kafkago.Error(said.code))
		return nil, nil
	case said.size == 0:
		if said.end != a.end && f.claim(a) {
			a.answer <- reply{Answer: Answer{Offset: a.offset, LogStart: said.logStart, End: said.end}}
		}
		return nil, nil
	}
	granted, err := f.cfg.Grant(ctx, said.size)
	if err != nil {
		p.noMemory = true
		f.fail([]*ask{a}, ErrNoMemory)
		return nil, ErrNoMemory
	}
	p.granted = granted
	return make([]byte, said.size), nil
}

var errGivenUp = errors.New("the request was given up")

// took hands out the batches for which room has returned memory.
func (p *poll) took(said part, batches []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	granted := p.granted
	p.granted = 0
	if f, a := p.feed, p.asks[said.partition]; f.serve(p, a) {
		a.answer <- reply{Answer: Answer{Offset: a.offset, LogStart: said.logStart, End: said.end, Batches: batches, Granted: granted}}
		runtime.Gosched() // the records first, then the rest of the answer
		return
	}
	p.feed.cfg.Release(granted)
}

func (f *Feed) isOver(a *ask) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return a.over
}

// serve claims a, and expects its partition to come back.
func (f *Feed) serve(p *poll, a *ask) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.over {
		return false
	}
	a.over = true
	f.lanes[p.broker].answered(p, a.partition)
	return true
}

// ended takes note of the end of a poll.
func (f *Feed) ended(p *poll, err error) {
	f.mu.Lock()
	l := f.lanes[p.broker]
	l.polls = slices.DeleteFunc(l.polls, func(q *poll) bool { return q == p })
	if len(l.awaited) > 0 {
		l.gathered = time.Now().Add(gather)
	}
	if err != nil {
		l.pause = time.Now().Add(afterFailure)
	}
	f.waiting = append(open(p.order), f.waiting...)
	f.mu.Unlock()
	f.look()
}
