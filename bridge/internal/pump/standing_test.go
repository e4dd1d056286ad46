package pump_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/kafka"
)

// second returns another member of the group, with connections of its own.
func (b *bundle) second() *bundle {
	b.t.Helper()
	cfg := kafka.Config{Brokers: []string{b.broker.Addr()}, ClientID: "bridge"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(transport.Close)
	other := *b
	other.client, other.cfg.InstanceID, other.shared = kafka.NewClient(cfg, transport), "two", nil
	return &other
}

// TestEveryReplicaSaysTheSame: two members have a partition each, and one of them
// is stuck. Both tell who has what, what is committed, and what holds it up.
func TestEveryReplicaSaysTheSame(t *testing.T) {
	s := newSink(t, func(id string, _ int) int {
		if id == "00001" {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	b := setup(t, s.server.URL)
	if err := b.broker.Cluster().CreateTopic("two", 2, nil); err != nil {
		t.Fatal(err)
	}
	b.cfg.Topic, b.cfg.Block = "two", true
	one, _ := b.run()
	two, _ := b.second().run()
	until(t, "each has a partition", func() bool { return len(one.Status()) == 1 && len(two.Status()) == 1 })
	for p := range int32(2) {
		for i, r := range events(3, 3) {
			r.Topic, r.Partition = "two", p
			if p == 0 && i == 1 {
				r = event("x", "k1") // only partition 1 has the event that is refused
				r.Topic, r.Partition = "two", p
			}
			b.produce(r)
		}
	}
	// told returns what s says without what changes from one moment to the next.
	told := func(s *pump.Subscription) string {
		v := s.View(t.Context())
		for i := range v.Partitions {
			p := &v.Partitions[i]
			p.Oldest = nil
			if p.Blocking != nil {
				block := *p.Blocking
				block.Attempts = 0
				p.Blocking = &block
			}
			if p.InFlight != nil && p.Partition == 1 {
				*p.InFlight = 0 // the one that is retried comes and goes
			}
		}
		text, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	until(t, "both say the same of all", func() bool {
		v := one.View(t.Context())
		return len(v.Partitions) == 2 && v.Partitions[0].Committed == 3 && v.Partitions[0].Lag == 0 && v.Partitions[0].InFlight != nil &&
			v.Partitions[1].Committed == 1 && v.Partitions[1].End == 3 && v.Partitions[1].Lag == 2 && v.Partitions[1].InFlight != nil &&
			v.Partitions[1].Blocking != nil && v.Partitions[1].Blocking.Offset == 1 && v.Partitions[1].Blocking.Key == "k1" &&
			strings.Contains(v.Partitions[1].Blocking.Reason, "503") && v.Members == 2 && v.State == "stable" && v.Unknown == "" && told(one) == told(two)
	})
	v := one.View(t.Context())
	owners := map[string]bool{}
	for _, p := range v.Partitions {
		if p.Owner == nil || p.Owner.Client != "bridge" || p.Owner.Host == "" || p.Owner.Member == "" {
			t.Fatalf("owner of partition %d: %+v", p.Partition, p.Owner)
		}
		owners[p.Owner.Instance] = true
	}
	if !owners["one"] || !owners["two"] {
		t.Errorf("owners = %v, want one and two", owners)
	}
	until(t, "the age grows", func() bool {
		v := two.View(t.Context())
		return v.Partitions[1].Oldest != nil && *v.Partitions[1].Oldest > 1
	})

	// A note of somebody else counts for nothing.
	for p := range 2 {
		resp, err := b.client.OffsetCommit(t.Context(), &kafkago.OffsetCommitRequest{GroupID: "group.status", GenerationID: -1,
			Topics: map[string][]kafkago.OffsetCommit{"two": {{Partition: p, Metadata: `{"member":"ghost","in_flight":99}`}}}})
		if err != nil || resp.Topics["two"][0].Error != nil {
			t.Fatalf("forge a note: %v, %+v", err, resp)
		}
	}
	until(t, "the forged notes were read", func() (silent bool) {
		for _, p := range append(one.View(t.Context()).Partitions, two.View(t.Context()).Partitions...) {
			silent = silent || p.InFlight == nil
			if p.InFlight != nil && *p.InFlight == 99 {
				t.Fatal("a note of a member that has no partition was believed")
			}
		}
		return silent
	})
	until(t, "the owners have written again", func() bool {
		for _, p := range append(one.View(t.Context()).Partitions, two.View(t.Context()).Partitions...) {
			if p.InFlight == nil {
				return false
			}
		}
		return true
	})
}

// TestManyQuestionsAreOne: a page that is reloaded all the time does not load the brokers.
func TestManyQuestionsAreOne(t *testing.T) {
	s := newSink(t, func(string, int) int { return http.StatusNoContent })
	b := setup(t, s.server.URL)
	sub, _ := b.run()
	until(t, "joined", func() bool { return sub.Ready() == nil })
	var asked atomic.Int32
	b.broker.Cluster().ControlKey(int16(kmsg.DescribeGroups), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.broker.Cluster().KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	began := time.Now()
	done := make(chan struct{})
	for range 10 {
		go func() {
			for range 100 {
				sub.View(t.Context())
			}
			done <- struct{}{}
		}()
	}
	for range 10 {
		<-done
	}
	if most := int32(2 + time.Since(began)/time.Second); asked.Load() < 1 || asked.Load() > most {
		t.Errorf("1000 questions asked the brokers %d times, want 1 to %d", asked.Load(), most)
	}
}

func TestWithoutBrokersAReplicaShowsItsOwn(t *testing.T) {
	s := newSink(t, func(string, int) int { return http.StatusNoContent })
	b := setup(t, s.server.URL)
	sub, _ := b.run()
	b.produce(events(3, 1)...)
	until(t, "delivered", func() bool { return s.total() == 3 })
	if err := b.broker.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "it says what is missing", func() bool {
		v := sub.View(t.Context())
		return strings.Contains(v.Unknown, "only the partitions of this replica are shown") && len(v.Partitions) == 1 && v.Partitions[0].InFlight != nil
	})
}
