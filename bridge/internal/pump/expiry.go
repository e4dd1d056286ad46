package pump

import (
	"fmt"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
)

// expiryTime is the extension attribute after which an event is of no use.
const expiryTime = "expirytime"

// expires reads an expirytime. One that is no time is none: an event that need not
// be delivered is better delivered than lost for a spelling.
func expires(text string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// expired reports whether it must not be posted any more.
func (it *item) expired(now time.Time) bool { return !it.expires.IsZero() && now.After(it.expires) }

// setAsideExpired makes a dead letter of an event whose time is over, also where
// nothing else is skipped: its producer has said that nobody wants it any more.
func (p *partition) setAsideExpired(it *item, now time.Time) {
	it.fail(fmt.Errorf("not posted: its %s %s has passed", expiryTime, it.expires.UTC().Format(time.RFC3339Nano)), now)
	if it.skip != nil {
		p.setAside(it, deadletter.Skipped, now)
		return
	}
	p.setAside(it, deadletter.Expired, now)
}
