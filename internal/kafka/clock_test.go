package kafka_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// A machine whose clock is wrong by more than Kafka accepts. The embedded broker
// takes any time, a real Kafka does not.
func TestAWrongClockDoesNotStopTheProducer(t *testing.T) {
	c := kafkatest.Start(t)
	for name, off := range map[string]time.Duration{"ahead": 48 * time.Hour, "years ahead": 20 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			topic, s := c.Topic(t, 2), stream{}
			var logs bytes.Buffer
			p := kafka.NewProducer(c.Client(t), slog.New(slog.NewTextHandler(&logs, nil)))
			p.SetClock(func() time.Time { return time.Now().Add(off) })
			for range 3 {
				if err := p.Produce(within(t, time.Minute), topic, s.take(20)); err != nil {
					t.Fatal(err)
				}
			}
			p.SetClock(time.Now) // somebody has set it
			if err := p.Produce(within(t, time.Minute), topic, s.take(20)); err != nil {
				t.Fatal(err)
			}
			log := read(t, c.Brokers, topic)
			s.check(t, log, false)
			if !kafkatest.IsReal() {
				return
			}
			for _, r := range log {
				if age := time.Since(r.Timestamp); age < -time.Minute || age > time.Minute {
					t.Fatalf("a record has the time %v, want the broker's", r.Timestamp)
				}
			}
			if n := strings.Count(logs.String(), "set the clock"); n != 1 {
				t.Errorf("%d warnings, want 1 a minute:\n%s", n, logs.String())
			}
		})
	}
}

// TestTheBrokersTime refuses times as Kafka does, with its text, next to the
// faults of a network: every record is stored once, in order, with a time that
// the broker accepts.
func TestTheBrokersTime(t *testing.T) {
	for name, c := range map[string]struct {
		off           time.Duration
		before, after time.Duration
		within        time.Duration // of the broker's time
	}{
		"in range":             {50 * time.Minute, 1 << 62, time.Hour, 50 * time.Minute},
		"ahead":                {2 * time.Hour, 1 << 62, time.Hour, 0},
		"behind":               {-2 * time.Hour, time.Hour, time.Hour, 0},
		"a narrow range":       {2 * time.Hour, time.Minute, time.Second, 30 * time.Second},
		"a range far too wide": {100 * time.Hour, 1 << 62, 90 * time.Hour, 89 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t, 1), stream{}
				w.producer.SetClock(func() time.Time { return time.Now().Add(c.off) })
				w.refuseTimes(c.before, c.after)
				w.mustProduce(s.take(20))
				w.wire.once(silent) // stored or refused, and the answer lost
				w.mustProduce(s.take(20))
				w.wire.once(pass, silent, silent)
				w.mustProduce(s.take(20))
				log := w.stored()
				s.check(t, log, false)
				for _, r := range log {
					if off := time.Since(r.Timestamp).Abs(); off > c.within+time.Second {
						t.Fatalf("a record is %v off the broker's time, want at most %v", off, c.within)
					}
				}
			})
		})
	}
}

// A call that ends before its answer leaves a batch that may be stored; the next
// call sends it again under the same sequence, whatever its time was.
func TestTheBrokersTimeAfterACallCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		w.refuseTimes(1<<62, time.Hour)
		w.mustProduce(s.take(20))
		w.producer.SetClock(func() time.Time { return time.Now().Add(3 * time.Hour) })
		n := 0
		w.wire.on(func() fate { // the refusal arrives, the acknowledgements do not
			if n++; n == 1 {
				return pass
			}
			return silent
		})
		recs := s.take(20)
		unacknowledged(t, w.produce(time.Second, recs), 20)
		w.wire.on(nil)
		w.mustProduce(recs)
		w.mustProduce(s.take(20))
		s.check(t, w.stored(), false)
	})
}

// Another broker's refusal may not say what it accepts. Then there is nothing to
// try, and nothing is lost: the outbox keeps the events.
func TestARefusedTimeWithoutAnExplanationIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		w.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.cluster.KeepControl()
			return refusal(req.(*kmsg.ProduceRequest), "the timestamp is out of range"), nil, true
		})
		if err := w.produce(time.Hour, s.take(1)); !errors.Is(err, kafkago.InvalidTimestamp) {
			t.Errorf("Produce = %v, want InvalidTimestamp", err)
		}
	})
}

// refuseTimes makes the broker refuse what Kafka 4.3.1 would, in its words.
func (w *world) refuseTimes(before, after time.Duration) {
	w.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		produce := req.(*kmsg.ProduceRequest)
		var b kmsg.RecordBatch
		if err := b.ReadFrom(produce.Topics[0].Partitions[0].Records); err != nil {
			w.t.Error(err)
		}
		now := time.Now()
		ahead := time.UnixMilli(b.FirstTimestamp).Sub(now)
		if b.ProducerID < 0 || ahead <= after && -ahead <= before { // the marks of read have no identity
			return nil, nil, false
		}
		return refusal(produce, fmt.Sprintf("Timestamp %d of message with offset 0 is out of range. The timestamp should be within [%d, %d]",
			b.FirstTimestamp, now.UnixMilli()-before.Milliseconds(), now.Add(after).UnixMilli())), nil, true
	})
}

func refusal(req *kmsg.ProduceRequest, text string) *kmsg.ProduceResponse {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	topic := kmsg.NewProduceResponseTopic()
	topic.Topic = req.Topics[0].Topic
	partition := kmsg.NewProduceResponseTopicPartition()
	partition.Partition = req.Topics[0].Partitions[0].Partition
	partition.ErrorCode = kerr.InvalidTimestamp.Code
	partition.ErrorMessage = kmsg.StringPtr("One or more records have been rejected due to invalid timestamp")
	reason := kmsg.NewProduceResponseTopicPartitionErrorRecord()
	reason.ErrorMessage = kmsg.StringPtr(text)
	partition.ErrorRecords = append(partition.ErrorRecords, reason)
	topic.Partitions = append(topic.Partitions, partition)
	resp.Topics = append(resp.Topics, topic)
	return resp
}
