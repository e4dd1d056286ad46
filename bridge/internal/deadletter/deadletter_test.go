package deadletter_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/internal/event"
)

type producer struct {
	topic string
	got   []event.Record
	err   error
}

func (p *producer) Produce(_ context.Context, topic string, rs []event.Record) error {
	p.topic, p.got = topic, append(p.got, rs...)
	return p.err
}

func TestTheRecordIsUnchanged(t *testing.T) {
	rec := event.Record{Key: []byte("k\x00"), Value: []byte("\xff not json"), Time: time.Unix(1700000000, 0),
		Headers: []event.Header{{Key: "content-type", Value: []byte("x")}, {Key: "a", Value: nil}, {Key: "a", Value: []byte("twice")}}}
	l := deadletter.Letter{Topic: "task-events", Partition: 2, Offset: 9, Group: "g", Subscription: "s", Sink: "http://x/", Reason: deadletter.Rejected,
		Error: "the sink answered 400", Status: 400, Attempts: 1, First: time.Unix(1700000001, 5).UTC(), Last: time.Unix(1700000002, 0).UTC(), Redrives: 1}
	p := &producer{}
	for range 2 {
		if err := deadletter.Write(t.Context(), p, "dlq", rec, l); err != nil {
			t.Fatal(err)
		}
	}
	// A letter of a letter must not have its headers twice.
	if err := deadletter.Write(t.Context(), p, "dlq", p.got[0], l); err != nil {
		t.Fatal(err)
	}
	for _, got := range p.got {
		if p.topic != "dlq" || string(got.Key) != string(rec.Key) || string(got.Value) != string(rec.Value) {
			t.Errorf("topic, key or value changed: %s, %q, %q", p.topic, got.Key, got.Value)
		}
		if diff := cmp.Diff(rec.Headers, got.Headers[:3]); diff != "" {
			t.Errorf("headers changed (-want +got):\n%s", diff)
		}
		if len(got.Headers) != 3+14 {
			t.Errorf("%d headers, want the record's 3 and 14 added ones", len(got.Headers))
		}
		back, ok := deadletter.Read(got.Headers)
		if diff := cmp.Diff(l, back); diff != "" || !ok {
			t.Errorf("Read = %v, letter (-want +got):\n%s", ok, diff)
		}
	}
	p.err = errors.New("no replicas")
	if err := deadletter.Write(t.Context(), p, "dlq", rec, l); !errors.Is(err, p.err) {
		t.Errorf("Write = %v, want the producer's error", err)
	}
	if _, ok := deadletter.Read(rec.Headers); ok {
		t.Error("Read accepts a record that is not a dead letter")
	}
}
