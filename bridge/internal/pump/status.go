package pump

import (
	"sync"
	"time"
)

// Status is what an operator wants to know of one partition.
type Status struct {
	Partition     int     `json:"partition"`
	Committed     int64   `json:"committed"` // -1: nothing yet
	End           int64   `json:"end"`       // -1: not known yet
	Lag           int64   `json:"lag"`       // end - committed
	InFlight      int     `json:"in_flight"`
	OldestSeconds float64 `json:"oldest_unacked_seconds"`
	Blocking      *Block  `json:"blocking"` // null when nothing holds the commit back
}

// Block is what holds a partition's commit back.
type Block struct {
	Offset   int64  `json:"offset"`
	Key      string `json:"key"`
	EventID  string `json:"event_id,omitempty"`
	Attempts int    `json:"attempts"`
	Reason   string `json:"reason"`
}

// statusBox is written by the partition's loop and read by whoever asks.
type statusBox struct {
	mu        sync.Mutex
	s         Status
	blocked   string // reason label of taskwire_bridge_blocked
	oldest    time.Time
	published time.Time // owned by the loop
	durable   int64
	any       bool // durable is set
}

func (b *statusBox) committed(offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.durable, b.any = offset, true
}

func (b *statusBox) block(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked = reason
}

// publish writes the status, not more often than is worth its cost.
func (p *partition) publish(now time.Time, shut string) {
	if now.Sub(p.status.published) < 50*time.Millisecond {
		return
	}
	p.status.published = now
	block, reason, oldest := p.blocking(shut)
	b := &p.status
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.any {
		p.committed = b.durable
	}
	b.s = Status{Partition: p.id, Committed: p.committed, End: p.end, InFlight: p.flying, Blocking: block}
	if p.end >= 0 {
		b.s.Lag = p.end - max(p.committed, 0)
	}
	b.oldest = oldest
	if b.blocked != "offset_out_of_range" {
		b.blocked = reason
	}
}

// blocking finds the item at the lowest offset in flight, if it has failed.
func (p *partition) blocking(shut string) (block *Block, reason string, oldest time.Time) {
	if shut != "" {
		reason = "paused"
	}
	lowest := p.tracker.Blocking()
	if lowest < 0 {
		return nil, reason, oldest
	}
	if lowest != p.held || p.heldSince.IsZero() {
		p.held, p.heldSince = lowest, time.Now()
	}
	oldest = p.heldSince
	// Whatever waits is the head of its key; the lowest offset is a head, too.
	var at *item
	for _, it := range p.waiting {
		if it.offset == lowest {
			at, oldest = it, it.received
		}
	}
	if at == nil {
		return nil, reason, oldest
	}
	switch {
	case reason != "":
	case at.letter != "":
		reason = "deadletter"
	case p.down():
		reason = "sink"
	default:
		reason = "event"
	}
	return &Block{Offset: at.offset, Key: at.queue.key, EventID: at.event, Attempts: at.attempts, Reason: at.failure}, reason, oldest
}

func (p *partition) snapshot(now time.Time) (Status, string) {
	b := &p.status
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	s.Partition = p.id
	if !b.oldest.IsZero() {
		s.OldestSeconds = now.Sub(b.oldest).Seconds()
	}
	return s, b.blocked
}

// View is what an operator wants to know of a subscription.
type View struct {
	Name       string   `json:"name"`
	Group      string   `json:"group"`
	Topic      string   `json:"topic"`
	Sink       string   `json:"sink"`
	State      string   `json:"state"` // joining, stable, draining, stopped, paused
	Reason     string   `json:"reason,omitempty"`
	Partitions []Status `json:"partitions"`
}

// View is the state of the subscription now.
func (s *Subscription) View() View {
	v := View{Name: s.cfg.Name, Group: s.cfg.Group, Topic: s.cfg.Topic, Sink: s.cfg.Sink, Partitions: []Status{}}
	state, err := s.member.State()
	v.State = state.String()
	if err != nil {
		v.Reason = err.Error()
	}
	if shut, _ := s.gate.get(); shut != "" {
		v.State, v.Reason = "paused", shut
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing != nil {
		v.Reason = s.missing.Error()
	}
	now := time.Now()
	for _, p := range s.partitions {
		status, _ := p.snapshot(now)
		v.Partitions = append(v.Partitions, status)
	}
	return v
}
