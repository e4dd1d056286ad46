package pump

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// Kafka deletes what is too old or too much, read or not. An event that is deleted
// unread is lost to the subscription, so an operator must hear of it before. The
// member that has partition 0 asks for the whole group, also about partitions that
// are held or that nobody has. Deliveries do not depend on any of this.

const (
	// retentionEvery is how old the numbers get. Time alone changes them, so there is
	// nothing that could wake who asks.
	retentionEvery = 30 * time.Second
	// expiring is the part of retention.ms after which a record is about to be deleted.
	expiring = 0.8
)

// retained is how a partition stands between what is deleted and what is read.
type retained struct {
	expiring int64 // unread records that are about to be deleted
	headroom int64 // records that are read and still there
	aged     bool  // expiring is known: retention goes by age, and may be asked for
}

// watchRetention asks until ctx ends.
func (s *Subscription) watchRetention(ctx context.Context) {
	report := rate.Sometimes{Interval: time.Hour}
	for ctx.Err() == nil {
		var found []retained
		pause := time.Second // until it leads
		if s.Leads() {
			var err error
			pause = s.retentionEvery
			if found, err = s.retention(ctx, time.Now()); err != nil && ctx.Err() == nil {
				report.Do(func() {
					s.log.Warn("not known whether records will be deleted unread; the bridge needs DescribeConfigs on the topic", "topic", s.cfg.Topic, "err", err)
				})
			}
		}
		s.mu.Lock()
		s.retained = found
		s.mu.Unlock()
		_ = retry.Pause(ctx, pause) // the loop looks
	}
	s.mu.Lock()
	s.retained = nil
	s.mu.Unlock()
}

// retention asks the brokers. What it returns beside an error is right, too.
func (s *Subscription) retention(ctx context.Context, now time.Time) ([]retained, error) {
	ctx, cancel := context.WithTimeout(ctx, standingTimeout)
	defer cancel()
	st, err := s.standing(ctx)
	if err != nil {
		return nil, err
	}
	all, read := make([]retained, len(st.bounds)), make([]int64, len(st.bounds))
	for id, b := range st.bounds {
		if read[id] = st.committed[id]; read[id] < 0 {
			read[id] = b.First // a group without a commit begins there
		}
		all[id].headroom = read[id] - b.First
	}
	keep, err := kafka.Retention(ctx, s.client, s.cfg.Topic)
	if err != nil || keep == 0 {
		return all, err
	}
	old, err := kafka.OffsetsSince(ctx, s.client, s.cfg.Topic, st.bounds, now.Add(-time.Duration(float64(keep)*expiring)))
	if err != nil {
		return all, fmt.Errorf("look for old records: %w", err)
	}
	for id := range all {
		all[id].expiring, all[id].aged = max(0, old[id]-max(read[id], st.bounds[id].First)), true
	}
	return all, nil
}

// observeRetention sets the gauges; s.mu is held.
func (s *Subscription) observeRetention() {
	name := prometheus.Labels{"subscription": s.cfg.Name}
	s.metrics.expiring.DeletePartialMatch(name)
	s.metrics.headroom.DeletePartialMatch(name)
	for id, r := range s.retained {
		partition := strconv.Itoa(id)
		s.metrics.headroom.WithLabelValues(s.cfg.Name, partition).Set(float64(r.headroom))
		if r.aged {
			s.metrics.expiring.WithLabelValues(s.cfg.Name, partition).Set(float64(r.expiring))
		}
	}
}
