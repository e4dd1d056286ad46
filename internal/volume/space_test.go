package volume_test

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/internal/volume"
)

func TestSpace(t *testing.T) {
	values := func(dir string) map[string]float64 {
		reg := prometheus.NewRegistry()
		reg.MustRegister(volume.Space(dir))
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
		}
		return got
	}
	got := values(t.TempDir())
	free, size := got["taskwire_volume_free_bytes"], got["taskwire_volume_size_bytes"]
	if free <= 0 || size < free {
		t.Errorf("free %v of %v bytes", free, size)
	}
	if got := values(filepath.Join(t.TempDir(), "missing")); len(got) != 0 {
		t.Errorf("a folder that is not there has the metrics %v, want none", got)
	}
}
