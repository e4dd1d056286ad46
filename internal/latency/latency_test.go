package latency_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/taskwire/taskwire/internal/latency"
)

const trace = "0af7651916cd43dd8448eb211c80319c"

func gather(t *testing.T, reg prometheus.Gatherer) []*dto.Metric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("gather: %d families, %v; want 1", len(families), err)
	}
	return families[0].GetMetric()
}

func exemplars(m *dto.Metric) (n int) {
	for _, b := range m.GetHistogram().GetBucket() {
		if e := b.GetExemplar(); e != nil && e.GetLabel()[0].GetName() == latency.TraceLabel && e.GetLabel()[0].GetValue() == trace {
			n++
		}
	}
	return n
}

func TestBothForms(t *testing.T) {
	reg := prometheus.NewRegistry()
	v := latency.New(reg, "x_seconds", "X.", time.Millisecond, 4, "who")
	v.Of("a").Observe(3*time.Millisecond, "")
	v.Of("b").Observe(time.Second, "")
	all := gather(t, reg)
	if len(all) != 2 {
		t.Fatalf("%d series, want 2", len(all))
	}
	h := all[0].GetHistogram()
	var bounds []float64
	for _, b := range h.GetBucket() {
		bounds = append(bounds, b.GetUpperBound())
	}
	if len(bounds) != 4 || bounds[0] != 0.001 || bounds[3] != 0.008 || h.GetBucket()[1].GetCumulativeCount() != 0 || h.GetBucket()[2].GetCumulativeCount() != 1 {
		t.Errorf("fixed buckets %v, want 0.001, 0.002, 0.004, 0.008 with one in the third", h.GetBucket())
	}
	if h.GetSchema() != 3 || len(h.GetPositiveSpan()) != 1 {
		t.Errorf("native histogram of schema %d with spans %v, want schema 3 and one span", h.GetSchema(), h.GetPositiveSpan())
	}
	v.Delete("who", "a")
	if all = gather(t, reg); len(all) != 1 {
		t.Errorf("%d series after one was deleted, want 1", len(all))
	}
}

func TestExemplars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		h := latency.New(reg, "x_seconds", "X.", time.Millisecond, 8).Of()
		h.Observe(time.Millisecond, trace)
		h.Observe(2*time.Millisecond, trace) // too early for another
		h.Observe(3*time.Millisecond, "")
		if n := exemplars(gather(t, reg)[0]); n != 1 {
			t.Errorf("%d exemplars within 100 ms, want 1", n)
		}
		time.Sleep(100 * time.Millisecond)
		h.Observe(20*time.Millisecond, trace)
		if n := exemplars(gather(t, reg)[0]); n != 2 {
			t.Errorf("%d exemplars after 100 ms, want 2", n)
		}
		if n := gather(t, reg)[0].GetHistogram().GetSampleCount(); n != 4 {
			t.Errorf("%d observations, want 4: those without an exemplar count, too", n)
		}
	})
}

// What is observed for each event must not cost one an allocation.
func TestObserveAllocatesNothing(t *testing.T) {
	h := latency.New(nil, "x_seconds", "X.", 500*time.Microsecond, 15).Of()
	h.Observe(time.Millisecond, trace) // the exemplar of these 100 ms
	h.Observe(50*time.Microsecond, "") // makes the bucket
	if n := testing.AllocsPerRun(1000, func() { h.Observe(50*time.Microsecond, "") }); n > 0 {
		t.Errorf("%v allocations for an observation, want none", n)
	}
}
