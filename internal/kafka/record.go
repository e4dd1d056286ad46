package kafka

import (
	"fmt"

	"github.com/segmentio/kafka-go/protocol"

	"github.com/taskwire/taskwire/internal/event"
)

// ReadRecord copies key, value, headers and time from a fetched record and
// releases its buffers. An absent key or value stays nil.
func ReadRecord(rec *protocol.Record) (event.Record, error) {
	defer Discard(rec)
	out := event.Record{Time: rec.Time, Headers: make([]event.Header, len(rec.Headers))}
	var err error
	if out.Key, err = protocol.ReadAll(rec.Key); err != nil {
		return event.Record{}, fmt.Errorf("read key: %w", err)
	}
	if out.Value, err = protocol.ReadAll(rec.Value); err != nil {
		return event.Record{}, fmt.Errorf("read value: %w", err)
	}
	for i, h := range rec.Headers {
		out.Headers[i] = event.Header{Key: h.Key, Value: h.Value}
	}
	return out, nil
}

// Discard releases the buffers of a record that nobody reads.
func Discard(rec *protocol.Record) {
	if rec.Key != nil {
		_ = rec.Key.Close()
	}
	if rec.Value != nil {
		_ = rec.Value.Close()
	}
}
