package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/latency"
)

type metrics struct {
	duplicates prometheus.Counter
	conflicts  prometheus.Counter
	fsync      *latency.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_audit_duplicates_total", Help: "Events that were already in the log, with the same content.",
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_audit_conflicts_total", Help: "Events refused because an entry with the same source and id has other content. Alert on any.",
		}),
		fsync: latency.New(reg, "taskwire_audit_fsync_seconds", "Duration of each fsync of the log.", 100*time.Microsecond, 16).Of(),
	}
}

func (m metrics) synced(took time.Duration, _ int) { m.fsync.Observe(took, "") }

// register adds the counters of the log itself: these two continue across restarts.
func (m metrics) register(reg *prometheus.Registry, l store, p prover) {
	reg.MustRegister(m.duplicates, m.conflicts, checkpoint{p},
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "taskwire_audit_entries_total", Help: "Entries in the log, including earlier runs.",
		}, func() float64 { return float64(l.Len()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "taskwire_audit_version_gaps_total", Help: "Entries whose task version does not follow the one before, including earlier runs.",
		}, func() float64 { return float64(l.VersionGaps()) }))
}

// checkpoint asks at each scrape, as another auditor may have signed it.
type checkpoint struct{ proofs prover }

var coveredDesc = prometheus.NewDesc("taskwire_audit_checkpoint_entries", "Entries that the newest signed checkpoint covers.", nil, nil)

// Describe implements prometheus.Collector.
func (c checkpoint) Describe(ch chan<- *prometheus.Desc) { ch <- coveredDesc }

// Collect implements prometheus.Collector. A database that does not answer leaves
// the metric out, and no other.
func (c checkpoint) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	n, err := c.proofs.Covered(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(coveredDesc, err)
		return
	}
	ch <- prometheus.MustNewConstMetric(coveredDesc, prometheus.GaugeValue, float64(n))
}

// uncheckedBytes is for a log in a file.
func uncheckedBytes(l *ledger.Ledger) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "taskwire_audit_unchecked_bytes", Help: "Bytes of the log that were not read again since the start. 0 when all of it was checked.",
	}, func() float64 {
		done, total := l.Checked()
		return float64(total - done)
	})
}
