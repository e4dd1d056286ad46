package fetch

import "time"

const (
	// places is how many requests one broker may have, each on a connection of its own.
	places = 3
	// short is how long a poll lasts in the last place.
	short = 20 * time.Millisecond
	// gather is how long the next request waits for the partitions that have just been
	// given records: most come back at once, and one request for all is cheaper than two.
	gather = time.Millisecond
	// meet is how close to the end of a poll no other is begun: both go on as one.
	meet = 5 * time.Millisecond
	// perPartition is the time between two requests for each partition in them. A
	// broker looks at each of them in each request, which costs some microseconds.
	perPartition = 10 * time.Microsecond
	// afterFailure is the pause after a request that failed.
	afterFailure = 20 * time.Millisecond
)

// lane is what a feed has under way with one broker. Guarded by Feed.mu.
type lane struct {
	polls    []*poll
	awaited  map[int]struct{} // partitions that have just been given records
	gathered time.Time        // until then they are waited for
	pause    time.Time        // no request before
}

// may is for how long a poll of a broker may begin now, or when to ask again. Both
// are zero while all places are taken: the end of a poll is a reason to look.
func (f *Feed) may(broker int32, now time.Time) (wait time.Duration, again time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[broker]
	if l == nil {
		l = &lane{awaited: map[int]struct{}{}}
		f.lanes[broker] = l
	}
	if !l.gathered.After(now) {
		clear(l.awaited)
	}
	answering := false
	for _, p := range l.polls {
		answering = answering || p.answering
	}
	switch {
	case len(l.polls) == places:
		return 0, time.Time{}
	case l.gathered.After(now) && (answering || len(l.awaited) > 0):
		return 0, l.gathered
	case l.pause.After(now):
		return 0, l.pause
	}
	wait = f.cfg.MaxWait
	for _, p := range l.polls {
		left := p.ends.Sub(now)
		switch {
		case left > -meet && left < meet:
			return 0, p.ends.Add(meet)
		case left > 0:
			wait = min(wait, left)
		}
	}
	if len(l.polls) == places-1 {
		wait = min(wait, short)
	}
	return wait, time.Time{}
}

// began needs the lock.
func (l *lane) began(p *poll, partitions int, wait time.Duration) {
	now := time.Now()
	p.ends = now.Add(wait)
	l.polls = append(l.polls, p)
	l.pause = now.Add(time.Duration(partitions) * perPartition)
}

// answered needs the lock. The partition is expected to come back.
func (l *lane) answered(p *poll, partition int) {
	p.answering = true
	l.awaited[partition] = struct{}{}
	l.gathered = time.Now().Add(gather)
}
