package outbox

import (
	"fmt"

	"github.com/taskwire/taskwire/internal/event"
)

// records turns rows into Kafka records. In structured mode the stored bytes
// are the value: an event is never made again.
func (r *Relay) records(rows []Row) ([]event.Record, error) {
	recs := make([]event.Record, len(rows))
	for i, row := range rows {
		if r.cfg.Encoder == nil && (r.cfg.Mode == "" || r.cfg.Mode == event.ModeStructured) {
			recs[i] = event.Structured(row.TaskID, row.Event)
			continue
		}
		e, err := event.Parse(row.Event)
		if err != nil {
			return nil, fmt.Errorf("read outbox row %d: %w", row.ID, err)
		}
		if recs[i], err = r.encode(e); err != nil {
			return nil, fmt.Errorf("encode outbox row %d: %w", row.ID, err)
		}
	}
	return recs, nil
}

func (r *Relay) encode(e event.Event) (event.Record, error) {
	switch {
	case r.cfg.Encoder != nil:
		return r.cfg.Encoder.Record(e)
	case r.cfg.Mode == event.ModeEnvelope:
		return event.Envelope(e)
	}
	return event.Binary(e)
}
