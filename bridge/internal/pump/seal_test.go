package pump_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/seal"
)

var (
	oldKey = []byte("0123456789abcdef0123456789abcdef")
	newKey = []byte("fedcba9876543210fedcba9876543210")
)

func keys(k ...[]byte) func() seal.Keys { return func() seal.Keys { return k } }

// forge commits for the group as any client may that has the right to, while no
// member is there.
func (b *bundle) forge(offset int64, metadata string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	for {
		resp, err := b.client.OffsetCommit(ctx, &kafkago.OffsetCommitRequest{GroupID: "group", GenerationID: -1,
			Topics: map[string][]kafkago.OffsetCommit{"events": {{Partition: 0, Offset: offset, Metadata: metadata}}}})
		if err == nil && resp.Topics["events"][0].Error == nil {
			return
		}
		if ctx.Err() != nil {
			b.t.Fatalf("forged commit refused: %v, %+v", err, resp)
		}
	}
}

// forgedMap says that the offsets from committed+1 to committed+n are done. It
// needs no secret: the checksum is a CRC.
func forgedMap(committed int64, n uint64) string {
	payload := binary.AppendUvarint(binary.AppendUvarint(nil, 1), n)
	table := crc32.MakeTable(crc32.Castagnoli)
	head := append(binary.BigEndian.AppendUint64(nil, uint64(committed)), 'r')
	sum := crc32.Update(crc32.Checksum(head, table), table, payload)
	return "tw1r" + base64.RawStdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, sum), payload...))
}

func (b *bundle) metric(name string, labels ...string) (value float64, found bool) {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue metrics
				}
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
		}
	}
	return 0, false
}

// TestAForgedCommitSkipsNothing is what somebody who may commit for the group can
// do. Without a key, 90 of 100 events vanish.
func TestAForgedCommitSkipsNothing(t *testing.T) {
	for name, forged := range map[string]struct {
		offset   int64
		metadata string
	}{
		"the map of a commit":    {5, forgedMap(5, 90)},
		"the offset":             {95, ""},
		"a seal of another key":  {95, seal.Keys{newKey}.Seal(seal.Place{Group: "group", Topic: "events", Offset: 95}, "")},
		"a seal of another part": {95, seal.Keys{oldKey}.Seal(seal.Place{Group: "group", Topic: "events", Partition: 1, Offset: 95}, "")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t, func(string, int) int { return 204 })
			b := setup(t, s.server.URL)
			b.cfg.Block = true
			b.produce(events(5, 5)...)
			_, stop := b.run()
			b.untilCommitted(5)
			stop()
			b.produce(events(100, 100)[5:]...)
			b.forge(forged.offset, forged.metadata)
			_, stop = b.run()
			b.untilCommitted(100)
			stop()
			if got := len(s.accepted()); got != 10 {
				t.Errorf("without a key: %d of 100 delivered, want 10: whoever may commit is trusted", got)
			}
		})
		t.Run(name+", with a key", func(t *testing.T) {
			s := newSink(t, func(string, int) int { return 204 })
			b := setup(t, s.server.URL)
			b.cfg.Block, b.cfg.Keys = true, keys(oldKey)
			b.produce(events(5, 5)...)
			_, stop := b.run()
			b.untilCommitted(5)
			stop()
			b.produce(events(100, 100)[5:]...)
			b.forge(forged.offset, forged.metadata)
			sub, stop := b.run()
			until(t, "held", func() bool {
				if offset, metadata := b.committed(); offset != forged.offset || metadata != forged.metadata {
					t.Fatalf("committed %d over the forged commit", offset)
				}
				ps := sub.Status()
				return len(ps) == 1 && ps[0].Blocking != nil && ps[0].Blocking.Offset == forged.offset && strings.Contains(ps[0].Blocking.Reason, "seal")
			})
			lag := float64(100 - forged.offset)
			until(t, "the lag of the held partition is shown", func() bool {
				got, _ := b.metric("taskwire_bridge_lag")
				v := sub.View(t.Context())
				return got == lag && v.Partitions[0].Lag == int64(lag) && v.Partitions[0].Blocking != nil
			})
			if v, _ := b.metric("taskwire_bridge_blocked", "reason", "unsealed"); v != 1 {
				t.Error("taskwire_bridge_blocked has no reason unsealed")
			}
			if v, _ := b.metric("taskwire_bridge_unsealed_offsets_total"); v != 1 {
				t.Errorf("taskwire_bridge_unsealed_offsets_total = %v, want 1", v)
			}
			var refused *pump.RefusedError
			if err := sub.Skip(t.Context(), pump.Skip{Offset: forged.offset}); !errors.As(err, &refused) {
				t.Errorf("Skip of a held partition = %v, want a refusal", err)
			}
			stop()
			if got := len(s.accepted()); got != 5 {
				t.Errorf("%d events delivered, want the first 5 and then none", got)
			}
			// A stop must not have sealed what somebody else wrote.
			if offset, metadata := b.committed(); offset != forged.offset || metadata != forged.metadata {
				t.Errorf("the group has %d, %q, want the forged commit untouched", offset, metadata)
			}
			// The operator finds out, sets the group back, and accepts that.
			b.forge(5, "")
			sub, stop = b.run()
			until(t, "held again", func() bool { ps := sub.Status(); return len(ps) == 1 && ps[0].Blocking != nil })
			got, err := sub.Accept(t.Context(), nil, "alice")
			if diff := cmp.Diff([]pump.Accepted{{Partition: 0, Offset: 5}}, got); diff != "" || err != nil {
				t.Errorf("Accept: %v (-want +got):\n%s", err, diff)
			}
			b.untilCommitted(100)
			if _, err := sub.Accept(t.Context(), nil, "alice"); !errors.As(err, &refused) {
				t.Errorf("a second Accept = %v, want a refusal", err)
			}
			stop()
			if got := len(s.accepted()); got != 100 {
				t.Errorf("with a key: %d of 100 delivered", got)
			}
			inOrder(t, s)
		})
	}
}

// TestAnUnsealedMapIsIgnoredByASubscriptionThatDeadLetters: it goes on, with an
// alarm, from the stored offset; nothing is left out because of the map.
func TestAnUnsealedMapIsIgnoredByASubscriptionThatDeadLetters(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	var log bytes.Buffer
	b.log, b.cfg.Keys = slog.New(slog.NewTextHandler(&log, nil)), keys(oldKey)
	b.produce(events(100, 100)...)
	b.forge(5, forgedMap(5, 90))
	_, stop := b.run()
	b.untilCommitted(100)
	stop()
	if got := len(s.accepted()); got != 95 {
		t.Errorf("%d events delivered, want 95: all from the stored offset on", got)
	}
	if v, _ := b.metric("taskwire_bridge_unsealed_offsets_total"); v != 1 || !strings.Contains(log.String(), "ALARM: stored offset is not sealed") {
		t.Errorf("taskwire_bridge_unsealed_offsets_total = %v and no alarm in the log:\n%s", v, log.String())
	}
	if _, metadata := b.committed(); len(metadata) != seal.Size {
		t.Errorf("the last commit has the metadata %q, want a seal", metadata)
	}
}

// TestEveryCommitIsSealed: a restart with the key trusts its own map, and a
// rotation seals again what is idle.
func TestEveryCommitIsSealed(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	s := newSink(t, func(id string, _ int) int {
		if id == "00007" && broken.Load() {
			return 500
		}
		return 204
	})
	b := setup(t, s.server.URL)
	b.cfg.Block, b.cfg.Keys = true, keys(oldKey)
	b.produce(events(100, 100)...)
	_, stop := b.run()
	until(t, "all others delivered", func() bool { return len(s.accepted()) == 99 })
	b.untilCommitted(7)
	stop()
	opens := func(by []byte) func() bool {
		return func() bool {
			offset, metadata := b.committed()
			_, _, err := seal.Keys{by}.Open(seal.Place{Group: "group", Topic: "events", Offset: offset}, metadata)
			return err == nil
		}
	}
	if !opens(oldKey)() {
		t.Fatal("the commit is not sealed")
	}
	var current atomic.Pointer[seal.Keys]
	current.Store(&seal.Keys{oldKey})
	b.cfg.Keys = func() seal.Keys { return *current.Load() }
	broken.Store(false)
	_, stop = b.run()
	b.untilCommitted(100)
	current.Store(&seal.Keys{newKey, oldKey})
	until(t, "the idle partition sealed with the new key", opens(newKey))
	stop()
	if got := len(s.accepted()); got != 100 {
		t.Errorf("%d accepted, want each of 100 once: the map was sealed and is good", got)
	}

	// A key that was lost: the partition waits, and goes on when it is back.
	current.Store(&seal.Keys{oldKey})
	b.produce(event("00100", "k"))
	sub, stop := b.run()
	until(t, "held", func() bool { ps := sub.Status(); return len(ps) == 1 && ps[0].Blocking != nil })
	current.Store(&seal.Keys{oldKey, newKey})
	b.untilCommitted(101)
	stop()
	if got := len(s.accepted()); got != 101 {
		t.Errorf("%d accepted, want 101", got)
	}
}

// TestWithoutAKeyNothingIsCommitted: while the file of keys cannot be used, events
// are delivered and their offsets wait.
func TestWithoutAKeyNothingIsCommitted(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	var current atomic.Pointer[seal.Keys]
	current.Store(&seal.Keys{})
	b.cfg.Block, b.cfg.Keys = true, func() seal.Keys { return *current.Load() }
	b.produce(events(10, 10)...)
	_, stop := b.run()
	until(t, "delivered", func() bool { return len(s.accepted()) == 10 })
	if offset, metadata := b.committed(); offset != -1 {
		t.Errorf("committed %d with %q without a key", offset, metadata)
	}
	current.Store(&seal.Keys{oldKey})
	b.untilCommitted(10)
	stop()
}
