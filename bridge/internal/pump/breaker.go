package pump

import "time"

// downKeys is how many keys fail, with no success between, until the sink
// counts as down.
const downKeys = 3

// breaker tells a sink that is down from an event that is bad: when several
// keys fail and none gets through, the sink is at fault. While it is down, one
// event at a time is posted as a probe, and none before the pause that the last
// probe's failure asked for is over.
//
// It has no clock, lock or goroutine. At most one attempt of a key may be under way.
type breaker struct {
	failing map[string]struct{} // keys whose last attempt failed, since the last success
	probing bool
	probe   string    // key of the probe under way
	probes  int       // failed in a row
	next    time.Time // no probe before
	err     error     // of the last failure
}

func newBreaker() *breaker { return &breaker{failing: map[string]struct{}{}} }

// down reports whether the sink, not an event, is at fault.
func (b *breaker) down() bool { return len(b.failing) >= downKeys }

// allows reports whether an attempt may start at now.
func (b *breaker) allows(now time.Time) bool {
	return !b.down() || (!b.probing && !b.next.After(now))
}

// started notes the start of an attempt of key.
func (b *breaker) started(key string) {
	if b.down() {
		b.probing, b.probe = true, key
	}
}

// ended notes the end of an attempt of key, before its outcome is booked. It
// reports whether the attempt was the probe.
func (b *breaker) ended(key string) (probe bool) {
	if !b.probing || b.probe != key {
		return false
	}
	b.probing, b.probe = false, ""
	return true
}

// failed books a failure of the sink. It returns how many probes have failed in
// a row when that puts the next one off, which the caller does with putOff, else 0.
//
// Posts that were in flight when the sink went down are no probes. Counted as
// such, one blip would put the first probe off by the longest pause.
func (b *breaker) failed(key string, probe bool, err error) (probes int) {
	wasDown := b.down()
	b.failing[key] = struct{}{}
	b.err = err
	if !probe && (wasDown || !b.down()) {
		return 0
	}
	b.probes++
	return b.probes
}

// putOff sets the time of the next probe.
func (b *breaker) putOff(next time.Time) { b.next = next }

// recovered books an answer that shows the sink at work. It reports whether the
// sink counted as down.
func (b *breaker) recovered() (wasDown bool) {
	wasDown = b.down()
	clear(b.failing)
	b.probes, b.err = 0, nil
	return wasDown
}

// forget drops a key whose event is out of the way.
func (b *breaker) forget(key string) { delete(b.failing, key) }
