package redrive

import (
	"context"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// followEvery is how old the state of the letters gets: what Kafka's tools
	// show as lag, and taskwire_bridge_dead_letters_open.
	followEvery = time.Minute
	// renewEvery: Kafka deletes the offsets of a group that had no member for
	// offsets.retention.minutes, 7 days. Then every letter would be open again.
	renewEvery = 12 * time.Hour
)

// follow makes a pass over the letters of a subscription when there are new ones,
// without touching those of the subscription itself. The group's offset moves over
// letters of other subscriptions, so that its lag begins at the oldest open one.
// One process of the group does it, the one that has partition 0 of the events.
func (j *Jobs) follow(ctx context.Context) {
	seen := map[string]mark{}
	for retry.Pause(ctx, 2*time.Second) == nil {
		for _, s := range j.all() {
			if s.Leads() && ctx.Err() == nil {
				j.followOne(ctx, s, seen)
			}
		}
	}
}

// mark is the end of a topic when it was passed over.
type mark struct {
	ends int64
	at   time.Time // of the last look
	pass time.Time
}

func (j *Jobs) followOne(ctx context.Context, s *pump.Subscription, seen map[string]mark) {
	m := seen[s.Name()]
	if time.Since(m.at) < followEvery {
		return
	}
	m.at = time.Now()
	defer func() { seen[s.Name()] = m }()
	box := s.Mailbox()
	bounds, err := deadletter.Bounds(ctx, box.Client, box.Topic)
	if err != nil {
		return // the topic is missing, or the broker: deliveries report that
	}
	ends := int64(1)
	for _, b := range bounds {
		ends += b.End
	}
	if ends == m.ends && time.Since(m.pass) < renewEvery {
		return
	}
	j.mu.Lock()
	busy := j.working[s.Name()] != nil
	j.mu.Unlock()
	if busy {
		m.at = time.Time{} // its own end is news
		return
	}
	if err := s.Redrive(ctx, &pump.Redrive{}); err != nil {
		j.log.Debug("dead letters not counted", "subscription", s.Name(), "err", err)
		return
	}
	m.ends, m.pass = ends, time.Now()
}
