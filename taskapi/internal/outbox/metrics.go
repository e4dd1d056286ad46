package outbox

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// backlogCollector asks the source on each scrape: the numbers come from the
// database, not from a copy in memory that could differ.
type backlogCollector struct{ source Source }

var (
	pendingDesc = prometheus.NewDesc("taskwire_outbox_pending", "Events committed and not yet acknowledged by Kafka.", nil, nil)
	oldestDesc  = prometheus.NewDesc("taskwire_outbox_oldest_seconds", "Age of the oldest waiting event, 0 when none waits.", nil, nil)
)

func (c backlogCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- pendingDesc
	ch <- oldestDesc
}

func (c backlogCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	backlog, err := c.source.Backlog(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(pendingDesc, err)
		return
	}
	age := 0.0
	if !backlog.Oldest.IsZero() {
		age = max(0, time.Since(backlog.Oldest).Seconds())
	}
	ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(backlog.Count))
	ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age)
}
