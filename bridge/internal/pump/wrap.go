package pump

import "github.com/taskwire/taskwire/internal/event"

// modeWrapped is the mode of records that are no events: the event is made of them.
const modeWrapped event.Mode = "wrapped"

// read returns the event of a record and the form it was in. It depends on the
// record alone, so that each fetch of it gives the same event, with the same id.
func (p *partition) read(r event.Record, offset int64) (event.Event, event.Mode, error) {
	if !p.sub.cfg.Wrap {
		return event.FromRecord(r)
	}
	e, err := event.Wrap(p.sub.cfg.Topic, p.id, offset, r)
	return e, modeWrapped, err
}
