package pump

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/event"
)

// filters are those of a subscription, for all of its partitions.
type filters struct {
	matcher *filter.Matcher
	report  rate.Sometimes // one log line for many events that an sql filter fails for
}

func newFilters(list []filter.Filter) (*filters, error) {
	matcher, err := filter.New(list)
	return &filters{matcher: matcher, report: rate.Sometimes{Interval: 10 * time.Second}}, err
}

// wants reports whether e, of the record at offset, passes the filters. An sql
// filter that fails for it is false, and the event may go undelivered without any
// fault of its own: that is counted, and logged now and then.
func (p *partition) wants(e event.Event, offset int64) bool {
	passes, err := p.sub.filters.matcher.Match(e)
	if err != nil {
		p.sub.metrics.undecided.WithLabelValues(p.sub.cfg.Name).Inc()
		p.sub.filters.report.Do(func() {
			p.sub.log.Warn("filter failed for an event and is false, see bridge explain", "event_id", e.ID(), "event_type", e.Type(),
				"topic", p.sub.cfg.Topic, "partition", p.id, "offset", offset, "passes", passes, "err", err)
		})
	}
	return passes
}
