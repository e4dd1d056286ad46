// Package deadletter stores events that could not be delivered: the record, byte
// for byte, on another topic, with headers that say where it came from and why.
package deadletter

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// Reasons, the values of dlq-reason.
const (
	Rejected  = "rejected"  // the sink refused the event
	Exhausted = "exhausted" // attempts or time ran out
	Malformed = "malformed" // the record is not an event
	Expired   = "expired"   // the event's expirytime has passed
	Skipped   = "skipped"   // an operator has set the event aside
)

// Prefix begins the name of each added header.
const Prefix = "dlq-"

// Producer stores records durably: when it returns nil, every in-sync replica has them.
type Producer interface {
	Produce(ctx context.Context, topic string, records []event.Record) error
}

// Letter describes why a record is a dead letter.
type Letter struct {
	Topic        string
	Partition    int
	Offset       int64
	Group        string
	Subscription string
	Sink         string
	Reason       string
	Error        string // of the last attempt
	Status       int    // of the last answer; 0 for none
	Attempts     int
	First, Last  time.Time // failures
	Redrives     int

	SkippedBy, SkippedReason string // of a skipped event
}

// Write stores the record on topic. Its offset may count as done only after Write returns nil.
func Write(ctx context.Context, p Producer, topic string, rec event.Record, l Letter) error {
	out := event.Record{Key: rec.Key, Value: rec.Value, Headers: append(l.strip(rec.Headers), l.headers(rec)...)}
	if err := p.Produce(ctx, topic, []event.Record{out}); err != nil {
		return fmt.Errorf("write dead letter of %s/%d@%d to topic %s: %w", l.Topic, l.Partition, l.Offset, topic, err)
	}
	return nil
}

// Original returns the record that Write was given.
func Original(stored event.Record) event.Record {
	out := event.Record{Key: stored.Key, Value: stored.Value, Time: stored.Time, Headers: Letter{}.strip(stored.Headers)}
	for _, h := range stored.Headers {
		if h.Key == Prefix+"timestamp" {
			if at, err := time.Parse(time.RFC3339Nano, string(h.Value)); err == nil {
				out.Time = at
			}
		}
	}
	return out
}

// strip drops the headers of an earlier dead letter, so that none is there twice.
func (l Letter) strip(in []event.Header) []event.Header {
	out := make([]event.Header, 0, len(in)+14)
	for _, h := range in {
		if !strings.HasPrefix(h.Key, Prefix) {
			out = append(out, h)
		}
	}
	return out
}

func (l Letter) headers(rec event.Record) []event.Header {
	var out []event.Header
	add := func(name, value string) { out = append(out, event.Header{Key: Prefix + name, Value: []byte(value)}) }
	add("topic", l.Topic)
	add("partition", strconv.Itoa(l.Partition))
	add("offset", strconv.FormatInt(l.Offset, 10))
	add("timestamp", rec.Time.UTC().Format(time.RFC3339Nano))
	add("group", l.Group)
	add("subscription", l.Subscription)
	add("sink", l.Sink)
	add("reason", l.Reason)
	add("error", l.Error[:min(len(l.Error), 1024)])
	add("status", strconv.Itoa(l.Status))
	add("attempts", strconv.Itoa(l.Attempts))
	add("first-failure", l.First.UTC().Format(time.RFC3339Nano))
	add("last-failure", l.Last.UTC().Format(time.RFC3339Nano))
	add("redrives", strconv.Itoa(l.Redrives))
	if l.Reason == Skipped {
		add("skipped-by", l.SkippedBy)
		add("skipped-reason", l.SkippedReason)
	}
	return out
}

// Read returns the letter of a record that Write stored; ok is false for any other record.
func Read(headers []event.Header) (l Letter, ok bool) {
	m := map[string]string{}
	for _, h := range headers {
		if name, found := strings.CutPrefix(h.Key, Prefix); found {
			m[name] = string(h.Value)
		}
	}
	l = Letter{Topic: m["topic"], Group: m["group"], Subscription: m["subscription"], Sink: m["sink"], Reason: m["reason"], Error: m["error"],
		SkippedBy: m["skipped-by"], SkippedReason: m["skipped-reason"]}
	l.Partition, _ = strconv.Atoi(m["partition"])
	l.Offset, _ = strconv.ParseInt(m["offset"], 10, 64)
	l.Status, _ = strconv.Atoi(m["status"])
	l.Attempts, _ = strconv.Atoi(m["attempts"])
	l.Redrives, _ = strconv.Atoi(m["redrives"])
	l.First, _ = time.Parse(time.RFC3339Nano, m["first-failure"])
	l.Last, _ = time.Parse(time.RFC3339Nano, m["last-failure"])
	return l, l.Subscription != "" && l.Reason != ""
}
