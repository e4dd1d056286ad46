package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

type metrics struct {
	duplicates prometheus.Counter
	conflicts  prometheus.Counter
	fsync      prometheus.Histogram
}

func newMetrics() metrics {
	return metrics{
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_audit_duplicates_total", Help: "Events that were already in the log, with the same content.",
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_audit_conflicts_total", Help: "Events refused because an entry with the same source and id has other content. Alert on any.",
		}),
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "taskwire_audit_fsync_seconds", Help: "Duration of each fsync of the log.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
	}
}

func (m metrics) synced(took time.Duration, _ int) { m.fsync.Observe(took.Seconds()) }

// register adds the counters of the log itself: these two continue across restarts.
func (m metrics) register(reg *prometheus.Registry, l store) {
	reg.MustRegister(m.duplicates, m.conflicts, m.fsync,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "taskwire_audit_entries_total", Help: "Entries in the log, including earlier runs.",
		}, func() float64 { return float64(l.Len()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "taskwire_audit_version_gaps_total", Help: "Entries whose task version does not follow the one before, including earlier runs.",
		}, func() float64 { return float64(l.VersionGaps()) }))
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
