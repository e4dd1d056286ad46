package pump_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// gauges are the values of a metric of subscription sub, by partition.
func (b *bundle) gauges(name string) map[string]float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() // partition comes before subscription
			}
		}
	}
	return got
}

func is(got map[string]float64, want ...float64) bool {
	return len(got) == len(want) && (len(want) < 1 || got["0"] == want[0]) && (len(want) < 2 || got["1"] == want[1])
}

// TestRecordsThatAreDeletedUnread: the oldest records are counted while the sink is
// down, and no longer when they are read.
func TestRecordsThatAreDeletedUnread(t *testing.T) {
	var up atomic.Bool
	s := newSink(t, func(string, int) int {
		if up.Load() {
			return http.StatusNoContent
		}
		return http.StatusServiceUnavailable
	})
	b := setup(t, s.server.URL)
	if err := b.broker.Cluster().CreateTopic("two", 2, map[string]string{"retention.ms": "3600000"}); err != nil { // an hour
		t.Fatal(err)
	}
	b.cfg.Topic, b.cfg.Block = "two", true
	for p := range int32(2) {
		for i, r := range events(5, 5) {
			r.Topic, r.Partition = "two", p
			r.Timestamp = time.Now().Add(-47 * time.Minute) // under four fifths of an hour
			if p == 1 && i < 3 {
				r.Timestamp = time.Now().Add(-50 * time.Minute)
			}
			b.produce(r)
		}
	}
	b.before = func(s *pump.Subscription) { s.SetRetentionEvery(20 * time.Millisecond) }
	b.run()
	const expiring, headroom = "taskwire_bridge_expiring_records", "taskwire_bridge_headroom_records"
	until(t, "three records of partition 1 are about to be deleted", func() bool {
		return is(b.gauges(expiring), 0, 3) && is(b.gauges(headroom), 0, 0)
	})
	up.Store(true)
	until(t, "all are read", func() bool { return is(b.gauges(expiring), 0, 0) && is(b.gauges(headroom), 5, 5) })

	// Without the right to ask for retention.ms the rest is still known.
	b.broker.Cluster().ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.broker.Cluster().KeepControl()
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		r := kmsg.NewDescribeConfigsResponseResource()
		r.ErrorCode, r.ResourceType, r.ResourceName = 29, kmsg.ConfigResourceTypeTopic, "two" // TOPIC_AUTHORIZATION_FAILED
		resp.Resources = append(resp.Resources, r)
		return resp, nil, true
	})
	until(t, "only the headroom is known", func() bool { return is(b.gauges(expiring)) && is(b.gauges(headroom), 5, 5) })
}

// TestNothingExpires: a topic that keeps its records has no such metric.
func TestNothingExpires(t *testing.T) {
	s := newSink(t, func(string, int) int { return http.StatusServiceUnavailable })
	b := setup(t, s.server.URL)
	for _, set := range []map[string]string{{"retention.ms": "-1"}, {"cleanup.policy": "compact", "retention.ms": "1000"}} {
		topic := "kept-" + set["cleanup.policy"]
		if err := b.broker.Cluster().CreateTopic(topic, 1, set); err != nil {
			t.Fatal(err)
		}
		b.cfg.Topic, b.cfg.Group, b.cfg.Block = topic, "group-"+topic, true
		r := event("1", "k")
		r.Topic, r.Timestamp = topic, time.Now().Add(-24*time.Hour)
		b.produce(r)
		_, stop := b.run()
		until(t, topic+" is known", func() bool { return is(b.gauges("taskwire_bridge_headroom_records"), 0) })
		if got := b.gauges("taskwire_bridge_expiring_records"); !is(got) {
			t.Errorf("%s: expiring records %v, want none", topic, got)
		}
		stop()
	}
}
