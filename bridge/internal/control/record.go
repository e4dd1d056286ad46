package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/internal/event"
)

// Pause is why a subscription is paused, who wanted that, and since when.
type Pause struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	// Unstored is why only this replica knows of the pause, "" when all do.
	Unstored string `json:"unstored,omitempty"`
}

// record is the value of a record of the topic.
type record struct {
	Paused bool      `json:"paused"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// idHeader tells a replica that a record is its own. It is no part of what is
// wanted, and other writers need not have it.
const idHeader = "taskwire-write"

func (r record) encode(name, id string) (event.Record, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return event.Record{}, err
	}
	return event.Record{Key: []byte(name), Value: value, Headers: []event.Header{{Key: idHeader, Value: []byte(id)}}}, nil
}

// decode returns nil for a tombstone: nothing is wanted.
func decode(rec fetch.Record) (*record, error) {
	if rec.Value == nil {
		return nil, nil
	}
	if len(rec.Value) > maxRecord {
		return nil, fmt.Errorf("%d bytes, more than %d", len(rec.Value), maxRecord)
	}
	var r struct {
		record
		Paused *bool `json:"paused"`
	}
	if err := json.Unmarshal(rec.Value, &r); err != nil {
		return nil, err
	}
	if r.Paused == nil {
		return nil, errors.New("paused is missing")
	}
	r.record.Paused = *r.Paused
	return &r.record, nil
}

// take passes on the records of an answer and returns the offset to go on from.
func (c *Control) take(batches []byte, offset int64, apply func(fetch.Record)) (next int64, err error) {
	records := fetch.Read(batches, offset, maxRecord+1<<10)
	defer records.Pause()
	for {
		rec, err := records.Read()
		var tooLarge *fetch.TooLargeError
		switch {
		case errors.Is(err, io.EOF):
			return records.Next(), nil
		case errors.As(err, &tooLarge): // whose it is cannot be told
			c.log.Warn("record of the pauses is too large, passed over", "offset", tooLarge.Offset, "bytes", tooLarge.Size)
			return tooLarge.Offset + 1, nil
		case err != nil:
			return records.Next(), fmt.Errorf("read topic %s at offset %d: %w", Topic, records.Next(), err)
		}
		apply(rec)
	}
}

// backlog is what was read before the end.
type backlog struct {
	last map[string]fetch.Record // of each subscription
	own  []fetch.Record          // writes that somebody waits for
}

// keep takes a record into the backlog, unless no subscription has its name.
func (c *Control) keep(b *backlog, rec fetch.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gates[string(rec.Key)] == nil {
		return
	}
	b.last[string(rec.Key)] = rec
	if c.pending[id(rec)] != nil {
		b.own = append(b.own, rec)
	}
}

func (c *Control) applyAll(b backlog) {
	for _, rec := range b.last {
		c.apply(rec)
	}
	for _, rec := range b.own {
		c.readBack(id(rec))
	}
}

// id is the header by which a replica knows its own records, "" without one.
func id(rec fetch.Record) string {
	for _, h := range rec.Headers {
		if h.Key == idHeader {
			return string(h.Value)
		}
	}
	return ""
}

// apply makes a record known to its gate, then to whoever wrote it.
func (c *Control) apply(rec fetch.Record) {
	name := string(rec.Key)
	c.mu.Lock()
	g := c.gates[name]
	c.mu.Unlock()
	if g != nil {
		want, err := decode(rec)
		if err != nil {
			c.log.Error("record of the pauses cannot be read, the subscription is paused", "subscription", name, "offset", rec.Offset, "err", err)
			want = &record{Paused: true, By: "unknown", At: rec.Time.UTC(),
				Reason: fmt.Sprintf("the record at offset %d of topic %s cannot be read; resume to replace it", rec.Offset, Topic)}
		}
		g.apply(rec.Offset, want)
	}
	c.readBack(id(rec))
}
