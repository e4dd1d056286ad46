package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// A broker refuses records whose time is more than an hour ahead of its own
// clock (message.timestamp.after.max.ms). The refusal names the range that it
// accepts, and with it the broker's time; a batch that is refused is sent again
// with that. Each batch tries this machine's clock first, so nothing has to be
// undone when somebody sets the clock.
//
// Records without a time, -1, would be accepted as well. But a segment of the log
// is as old as its latest record that has a time: new records without one would
// be deleted together with the old ones before them, perhaps undelivered.

// usualAhead is the default of message.timestamp.after.max.ms.
const usualAhead = time.Hour

// timeError is INVALID_TIMESTAMP with the time that the broker would accept.
type timeError struct {
	at  time.Time
	err error
}

func (e *timeError) Error() string {
	return fmt.Sprintf("%v; the broker accepts %s", e.err, e.at.UTC().Format(time.RFC3339))
}
func (e *timeError) Unwrap() error { return e.err }

// acceptedRange ends Kafka's text: "... The timestamp should be within [min, max]".
var acceptedRange = regexp.MustCompile(`\[(-?[0-9]+), (-?[0-9]+)\]$`)

// explain is the error of a response.
func explain(resp *kafkago.ProduceResponse) error {
	if !errors.Is(resp.Error, kafkago.InvalidTimestamp) {
		return resp.Error
	}
	for _, reason := range resp.RecordErrors {
		if at, ok := brokerTime(reason.Error()); ok {
			return &timeError{at: at, err: resp.Error}
		}
	}
	return resp.Error
}

// brokerTime is a time within the range that text ends with: the broker's own,
// if its topic allows for the usual hour.
func brokerTime(text string) (time.Time, bool) {
	m := acceptedRange.FindStringSubmatch(text)
	if m == nil {
		return time.Time{}, false
	}
	from, err1 := strconv.ParseInt(m[1], 10, 64)
	to, err2 := strconv.ParseInt(m[2], 10, 64)
	if err1 != nil || err2 != nil || to < from || to <= 0 {
		return time.Time{}, false
	}
	at := to - usualAhead.Milliseconds()
	if at < from {
		at = from + (to-from)/2
	}
	return time.UnixMilli(at), true
}

// correct is b with the time that err names. If read reports that b's memory is
// still in use, it is a copy.
func (p *Producer) correct(pt *partition, b batch, err error, read bool) batch {
	told := (*timeError)(nil)
	if !errors.As(err, &told) {
		return b
	}
	p.wrongClock.Do(func() {
		p.log.Warn("Kafka refuses this machine's time for records, they get the broker's; set the clock, or raise message.timestamp.after.max.ms of the topic",
			"topic", pt.topic, "partition", pt.place.id, "record_time", b.time().UTC(), "broker_time", told.at.UTC())
	})
	if read {
		b = slices.Clone(b)
	}
	b.setTime(told.at)
	return b
}

// setTime makes b unstamped: its checksum covers the time.
func (b batch) setTime(at time.Time) {
	h, ms := b[prefix:], uint64(at.UnixMilli())
	binary.BigEndian.PutUint64(h[atFirstTime:], ms)
	binary.BigEndian.PutUint64(h[atMaxTime:], ms)
	binary.BigEndian.PutUint32(h[atChecksum:], 0)
}
