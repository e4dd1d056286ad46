package pump_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const wide = 12

// widen makes the subscription that of a topic with many partitions and n events in each.
func (b *bundle) widen(n int) {
	b.t.Helper()
	b.cfg.Topic = "wide"
	if err := b.broker.Cluster().CreateTopic("wide", wide, nil); err != nil {
		b.t.Fatal(err)
	}
	var records []*kgo.Record
	for p := range int32(wide) {
		for i := range n {
			r := event(fmt.Sprintf("%d/%05d", p, i), fmt.Sprintf("p%d-k%d", p, i%7))
			r.Topic, r.Partition = "wide", p
			records = append(records, r)
		}
	}
	b.produce(records...)
}

// stored is the group's offset of each partition of the wide topic.
func (b *bundle) stored() map[int]int64 {
	b.t.Helper()
	var ids []int
	for p := range wide {
		ids = append(ids, p)
	}
	resp, err := b.client.OffsetFetch(b.t.Context(), &kafkago.OffsetFetchRequest{GroupID: "group", Topics: map[string][]int{"wide": ids}})
	if err != nil {
		b.t.Fatal(err)
	}
	offsets := map[int]int64{}
	for _, p := range resp.Topics["wide"] {
		offsets[p.Partition] = p.CommittedOffset
	}
	return offsets
}

func (b *bundle) untilStored(n int64, but ...int) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("offset %d stored everywhere", n), func() bool {
		offsets := b.stored()
		for _, p := range but {
			delete(offsets, p)
		}
		for _, offset := range offsets {
			if offset != n {
				return false
			}
		}
		return len(offsets) == wide-len(but)
	})
}

// TestOneRequestStoresAllPartitions: however many partitions are busy, one request is in
// flight and carries all that have news; a stop stores the last of them together, too.
func TestOneRequestStoresAllPartitions(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	b.widen(300)
	var mu sync.Mutex
	var requests, carried int
	inFlight, slow := 0, make(chan struct{})
	c := b.broker.Cluster()
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if req.(*kmsg.OffsetCommitRequest).Group != "group" { // a note, see note.go
			return nil, nil, false
		}
		mu.Lock()
		requests++
		inFlight++
		if inFlight > 1 {
			t.Error("two commits in flight")
		}
		for _, topic := range req.(*kmsg.OffsetCommitRequest).Topics {
			carried += len(topic.Partitions)
		}
		mu.Unlock()
		c.SleepControl(func() { // long enough for all loops to have news
			select {
			case <-slow:
			case <-time.After(20 * time.Millisecond):
			}
		})
		mu.Lock()
		inFlight--
		mu.Unlock()
		return nil, nil, false
	})
	_, stop := b.run()
	b.untilStored(300)
	close(slow)
	stop()
	if requests == 0 || carried < 3*requests {
		t.Errorf("%d requests carried %d partitions, want several in each", requests, carried)
	}
}

// TestARefusedPartitionHoldsBackNoOther: what the broker refuses of one partition is
// reported and tried again, not in a loop; the others are stored meanwhile.
func TestARefusedPartitionHoldsBackNoOther(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	b.widen(50)
	refused := b.broker.Cluster().Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.OffsetCommit}, Topic: "wide", Partitions: []int32{5}, Err: kerr.InvalidCommitOffsetSize, Count: -1,
	})
	sub, stop := b.run()
	b.untilStored(50, 5)
	if offset := b.stored()[5]; offset >= 0 {
		t.Errorf("offset %d stored of the partition that the broker refuses", offset)
	}
	if n := len(s.accepted()); n != 50*wide {
		t.Errorf("%d delivered, want %d: a refused commit stops no delivery", n, 50*wide)
	}
	refused.Remove()
	b.untilStored(50)
	until(t, "shown", func() bool { return sub.Status()[0].Committed == 50 })
	stop()
}

// TestARefusalIsNotALoop: a coordinator that refuses everything is asked at growing
// intervals, not a hundred times a second.
func TestARefusalIsNotALoop(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	b.produce(events(10, 10)...)
	refused := b.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "group", Err: kerr.GroupAuthorizationFailed, Count: -1})
	_, stop := b.run()
	if err := refused.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := refused.Wait(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 700*time.Millisecond { // 50, 100, 200 and 400 ms at least
		t.Errorf("asked 5 times within %v", took)
	}
	refused.Remove()
	b.untilCommitted(10)
	stop()
}
