package pump

import "github.com/taskwire/taskwire/internal/event"

// modeWrapped is the mode of records that are no events: the event is made of them.
const modeWrapped event.Mode = "wrapped"

// read returns the event of a record and the form it was in. It depends on the
// record alone, so that each fetch of it gives the same event, with the same id.
func (p *partition) read(it *item) (event.Event, event.Mode, error) {
	if !p.sub.cfg.Wrap {
		return event.FromRecord(it.record)
	}
	topic, partition, offset := p.origin(it)
	e, err := event.Wrap(topic, partition, offset, it.record)
	return e, modeWrapped, err
}
