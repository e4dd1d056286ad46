package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
)

func metadata(topic string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	named := kmsg.NewMetadataRequestTopic()
	named.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, named)
	return req
}

// TestOneFaultStoresEveryRecordOnce covers both kinds of each fault: the request
// failed, and it failed although the records were stored.
func TestOneFaultStoresEveryRecordOnce(t *testing.T) {
	fault := func(err *kerr.Error) func(*world) {
		return func(w *world) { w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 3}) }
	}
	for name, inject := range map[string]func(*world){
		"not leader":                  fault(kerr.NotLeaderForPartition),
		"leader not available":        fault(kerr.LeaderNotAvailable),
		"unknown topic":               fault(kerr.UnknownTopicOrPartition),
		"not enough replicas":         fault(kerr.NotEnoughReplicas),
		"not enough replicas, stored": fault(kerr.NotEnoughReplicasAfterAppend),
		"timed out, stored":           fault(kerr.RequestTimedOut),
		"corrupted in transit":        fault(kerr.CorruptMessage),
		"disk fault":                  fault(kerr.KafkaStorageError),
		"unknown server error":        fault(kerr.UnknownServerError),
		"unknown code":                fault(&kerr.Error{Code: 999}),
		"request lost":                func(w *world) { w.wire.once(cut, cut, cut) },
		"answer lost":                 func(w *world) { w.wire.once(silent, silent, silent) },
		"answer lost, then answered as a repetition": func(w *world) {
			w.wire.once(silent)
			w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.DuplicateSequenceNumber, When: second()})
		},
		"request held up": func(w *world) {
			w.wire.once(hold, hold)
			time.AfterFunc(15*time.Second, w.wire.release)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t, 1), stream{}
				w.mustProduce(s.take(20))
				inject(w)
				w.mustProduce(s.take(20))
				w.mustProduce(s.take(20))
				synctest.Wait()
				s.check(t, w.stored(), false)
			})
		})
	}
}

// TestLostTrackRepeatsAtWorst: the broker answers that it does not know this
// producer or its sequence. No record is lost and none overtakes another.
func TestLostTrackRepeatsAtWorst(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.ProducerFenced} {
		t.Run(code.Message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t, 1), stream{}
				w.mustProduce(s.take(20))
				// Stored, its answer lost, and then forgotten: the worst case.
				w.wire.once(silent)
				w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: 1, When: second()})
				w.mustProduce(s.take(20))
				w.mustProduce(s.take(20))
				log := w.stored()
				s.check(t, log, true)
				if len(log) != 80 {
					t.Errorf("%d records, want 60 and 20 repeated", len(log))
				}
				if warned := strings.Contains(w.logs.String(), "lost track"); warned != (code == kerr.OutOfOrderSequenceNumber) {
					t.Errorf("warned about lost track: %t, want it for OUT_OF_ORDER_SEQUENCE alone; log:\n%s", warned, w.logs)
				}
			})
		})
	}
}

// second matches all but the first request.
func second() func(kmsg.Request) bool {
	var first kmsg.Request // asked about several times
	return func(req kmsg.Request) bool {
		if first == nil {
			first = req
		}
		return req != first
	}
}

func TestRecreatedTopicIsWrittenFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.mustProduce(stream{}.take(20))
		if err := w.cluster.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		if err := w.cluster.CreateTopic(topic, 1, nil); err != nil {
			t.Fatal(err)
		}
		s := stream{}
		w.mustProduce(s.take(20))
		w.mustProduce(s.take(20))
		s.check(t, w.stored(), false)
	})
}

// TestCallCutShort: a call ends while its batch may or may not be stored.
func TestCallCutShort(t *testing.T) {
	for name, f := range map[string]fate{"request held up": hold, "answer lost": silent} {
		// The broker stays silent until the call has ended.
		inject := func(w *world) { w.wire.on(func() fate { return f }) }
		heal := func(w *world) {
			if f == hold {
				w.wire.release()
			}
			synctest.Wait()
			w.wire.on(nil)
		}
		t.Run(name+", same records again", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t, 1), stream{}
				w.mustProduce(s.take(5))
				recs := s.take(10)
				inject(w)
				unacknowledged(t, w.produce(time.Second, recs), 10)
				unacknowledged(t, w.produce(time.Second, recs), 10)
				heal(w)
				// Like the outbox: the same rows, and those added since.
				w.mustProduce(append(recs, s.take(7)...))
				w.mustProduce(s.take(5))
				s.check(t, w.stored(), false)
			})
		})
		t.Run(name+", other records next", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t, 1), stream{}
				w.mustProduce(s.take(5))
				inject(w)
				unacknowledged(t, w.produce(time.Second, []event.Record{{Key: []byte("given up"), Value: []byte("given up/1")}}), 1)
				if f == silent {
					heal(w)
				} else {
					defer heal(w)
					w.wire.mu.Lock()
					w.wire.decide = nil
					w.wire.mu.Unlock()
				}
				// The batch has as many records as the abandoned one: under the same
				// sequence the broker would take it for a repetition.
				other := []event.Record{s.next("other")}
				w.mustProduce(other)
				if f == hold {
					w.wire.release() // now it arrives, too late
					synctest.Wait()
					w.wire.on(nil)
				}
				w.mustProduce(s.take(5))
				var log []*kgo.Record
				for _, r := range w.stored() {
					if string(r.Key) == "given up" {
						if f == hold {
							t.Error("the abandoned batch was stored after its successor")
						}
						continue
					}
					log = append(log, r)
				}
				s.check(t, log, false)
				if f == hold {
					w.wire.on(nil) // for the deferred heal
				}
			})
		})
	}
}

func unacknowledged(t *testing.T, err error, n int) {
	t.Helper()
	var e *kafka.ProduceError
	if !errors.As(err, &e) || len(e.Acked) != n || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Produce = %v, want a ProduceError for %d records because of the deadline", err, n)
	}
	for i, ok := range e.Acked {
		if ok {
			t.Errorf("record %d is reported as stored", i)
		}
	}
}

// TestRandomFaultsOnceAndInOrder injects faults of all kinds at random, while a
// caller like the outbox produces the same records until they are acknowledged.
func TestRandomFaultsOnceAndInOrder(t *testing.T) {
	seeds := 10
	if testing.Short() {
		seeds = 3
	}
	codes := []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut, kerr.LeaderNotAvailable, kerr.KafkaStorageError}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				w, s := newWorld(t, 1+int(seed%3)), stream{}
				w.mustProduce(s.take(7))
				w.wire.on(func() fate {
					if rng.IntN(3) > 0 {
						return pass
					}
					if rng.IntN(2) == 0 {
						w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: codes[rng.IntN(len(codes))], Count: 1 + rng.IntN(3)})
						return pass
					}
					return cut + fate(rng.IntN(2))
				})
				var waiting []event.Record
				for range 60 {
					waiting = append(waiting, s.take(1+rng.IntN(20))...)
					waiting = unpublished(t, waiting, w.produce(time.Duration(1+rng.IntN(100))*time.Millisecond, waiting))
				}
				w.wire.on(nil)
				w.mustProduce(waiting)
				s.check(t, w.stored(), false)
			})
		})
	}
}

// unpublished returns the records that the caller has to produce again.
func unpublished(t *testing.T, recs []event.Record, err error) []event.Record {
	t.Helper()
	var e *kafka.ProduceError
	if err == nil {
		return nil
	}
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	var left []event.Record
	for i, ok := range e.Acked {
		if !ok {
			left = append(left, recs[i])
		}
	}
	return left
}

func TestSequencesNeverWrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		w.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.cluster.KeepControl()
			var b kmsg.RecordBatch
			if err := b.ReadFrom(req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records); err != nil {
				t.Error(err)
			}
			if int64(b.FirstSequence)+int64(b.NumRecords) > math.MaxInt32 {
				t.Errorf("sequence %d wraps around within a batch of %d records", b.FirstSequence, b.NumRecords)
			}
			return nil, nil, false
		})
		w.mustProduce(s.take(10))
		w.producer.WrapSoon(topic, 0, 5)
		w.mustProduce(s.take(5)) // the broker has not seen these numbers: a new epoch
		w.producer.WrapSoon(topic, 0, 5)
		w.producer.LastEpoch(topic, 0)
		w.mustProduce(s.take(6)) // neither numbers nor epochs are left: a new id
		w.mustProduce(s.take(10))
		s.check(t, w.stored(), false)
	})
}

func TestLeaderMoveCostsNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1, kfake.NumBrokers(3), kfake.Ports(9092, 9093, 9094)), stream{}
		w.mustProduce(s.take(10))
		worst := time.Duration(0)
		for i := range 20 {
			if err := w.cluster.MoveTopicPartition(topic, 0, int32(i%3)); err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			w.mustProduce(s.take(10))
			worst = max(worst, time.Since(started))
		}
		if worst > 50*time.Millisecond {
			t.Errorf("a leader move delayed Produce by %v, want at most 50ms", worst)
		}
		s.check(t, w.stored(), false)
	})
}

func TestTooLargeBatchIsHalved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		if err := w.cluster.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		if err := w.cluster.CreateTopic(topic, 1, map[string]string{"max.message.bytes": "5000"}); err != nil {
			t.Fatal(err)
		}
		w.mustProduce(s.take(2000))
		w.mustProduce(s.take(2000))
		s.check(t, w.stored(), false)
	})
}

// TestRefusedRecordStopsItsPartitionOnly: earlier records are stored, later ones
// of the partition are not sent, and other partitions are not affected.
func TestRefusedRecordStopsItsPartitionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		bad, same, other := []byte("a"), []byte("a"), []byte("c")
		if kafka.PartitionOf(bad, 4) == kafka.PartitionOf(other, 4) {
			t.Fatal("the keys share a partition; choose others")
		}
		err := w.produce(time.Hour, []event.Record{
			{Key: same, Value: []byte("before")}, {Key: bad, Value: make([]byte, 2<<20)}, {Key: same, Value: []byte("after")}, {Key: other, Value: []byte("elsewhere")},
		})
		var e *kafka.ProduceError
		if !errors.As(err, &e) || !errors.Is(err, kafkago.MessageSizeTooLarge) {
			t.Fatalf("Produce = %v, want MessageSizeTooLarge", err)
		}
		if fmt.Sprint(e.Acked) != "[true false false true]" {
			t.Errorf("Acked = %v, want [true false false true]", e.Acked)
		}
		var values []string
		for _, r := range w.stored() {
			values = append(values, string(r.Value))
		}
		if len(values) != 2 {
			t.Errorf("stored %q, want the first and the last record", values)
		}
	})
}

func TestDeniedIsReportedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		h := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: -1})
		started := time.Now()
		recs := s.take(3)
		if err := w.produce(time.Hour, recs); !errors.Is(err, kafkago.TopicAuthorizationFailed) || time.Since(started) > time.Second {
			t.Errorf("Produce = %v after %v, want TopicAuthorizationFailed within 1s", err, time.Since(started))
		}
		h.Remove()
		w.mustProduce(recs)
		s.check(t, w.stored(), false)
	})
}

func TestMissingTopicErrorNamesTheCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		started := time.Now()
		err := w.producer.Produce(t.Context(), "nowhere", stream{}.take(1))
		var missing *kafka.MissingTopicError
		if !errors.As(err, &missing) || time.Since(started) > 2*time.Second {
			t.Fatalf("Produce = %v after %v", err, time.Since(started))
		}
		if !strings.Contains(err.Error(), "kafka-topics.sh --bootstrap-server "+w.broker.Addr()+" --create --topic nowhere") {
			t.Errorf("message lacks the command that creates the topic: %v", err)
		}
	})
}

func TestCallsFromManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 3), stream{}
		rng := rand.New(rand.NewPCG(7, 7))
		w.wire.on(func() fate { // under the wire's lock
			if rng.IntN(5) == 0 {
				return cut + fate(rng.IntN(2))
			}
			return pass
		})
		var all sync.WaitGroup
		for g := range 8 {
			mine := stream{}
			var calls [][]event.Record
			for range 20 {
				calls = append(calls, []event.Record{mine.next(fmt.Sprint("g", g)), mine.next(fmt.Sprint("h", g)), mine.next(fmt.Sprint("g", g))})
			}
			for k, n := range mine {
				s[k] = n
			}
			all.Go(func() {
				for _, c := range calls {
					if err := w.produce(time.Hour, c); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		w.wire.on(nil)
		s.check(t, w.stored(), false)
	})
}

// TestWaitingForAnotherCallEndsWithTheContext: a call that hangs keeps its
// partition, but another call's deadline still holds.
func TestWaitingForAnotherCallEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, 1), stream{}
		w.mustProduce(s.take(1))
		w.wire.once(hold)
		first := make(chan error)
		recs := s.take(1)
		go func() { first <- w.produce(time.Hour, recs) }()
		synctest.Wait()
		unacknowledged(t, w.produce(time.Second, []event.Record{{Key: []byte("x"), Value: []byte("x/1")}}), 1)
		w.wire.release()
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		s.check(t, w.stored(), false)
	})
}
