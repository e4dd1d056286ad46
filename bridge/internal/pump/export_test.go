package pump

import "time"

// SetSession lets the group forget a dead pass sooner.
func (r *Redrive) SetSession(d time.Duration) { r.session = d }
