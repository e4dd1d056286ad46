package pump

import (
	"context"
	"slices"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/group"
)

// View is what an operator wants to know of a subscription, for the whole group.
type View struct {
	Name       string          `json:"name"`
	Group      string          `json:"group"`
	Topic      string          `json:"topic"`
	Sink       string          `json:"sink"`
	State      string          `json:"state"` // paused; of the group: stable, rebalancing, empty; of this replica when the group is unknown
	Reason     string          `json:"reason,omitempty"`
	Paused     *control.Pause  `json:"paused"`            // null when it is not
	Members    int             `json:"members"`           // of the group
	Unknown    string          `json:"unknown,omitempty"` // what is left out, and why
	Partitions []PartitionView `json:"partitions"`

	Alone bool `json:"-"` // the brokers have not answered: Partitions are those of this replica, and old
}

// PartitionView is a partition of the topic, whoever has it.
type PartitionView struct {
	Partition int          `json:"partition"`
	Committed int64        `json:"committed"`              // -1: nothing yet
	End       int64        `json:"end"`                    // -1: not known
	Lag       int64        `json:"lag"`                    // offsets that are not committed
	Owner     *group.Owner `json:"owner"`                  // null when no member has it
	InFlight  *int         `json:"in_flight"`              // null when the owner has not said yet
	Oldest    *float64     `json:"oldest_unacked_seconds"` // likewise
	Blocking  *Block       `json:"blocking"`               // null when nothing holds the commit back
}

// View asks the brokers how the group stands, and adds what the owners of the
// partitions have in flight: this member knows, the others have written it down.
// When the brokers do not answer, it has the partitions of this member alone.
func (s *Subscription) View(ctx context.Context) View {
	v := s.own()
	st, err := s.standing(ctx)
	if err != nil {
		v.Unknown, v.Alone = "only the partitions of this replica are shown: "+err.Error(), true
		return v
	}
	now, mine := time.Now(), map[int]*partition{}
	for _, p := range s.current() {
		mine[p.id] = p
	}
	v.Members, v.Partitions = st.Members, make([]PartitionView, len(st.committed))
	if v.Paused == nil {
		v.State = st.State
	}
	for id := range v.Partitions {
		w := PartitionView{Partition: id, Committed: st.committed[id], End: st.bounds[id].End, Lag: st.lag(id)}
		owner, owned := st.Owners[id]
		if owned {
			w.Owner = &owner
		}
		p, written := mine[id], st.notes[id]
		switch {
		case p != nil && (!owned || owner.Member == p.session.MemberID):
			w.add(p.snapshotNow(now))
		case owned && written.Member == owner.Member:
			w.add(Status{InFlight: written.InFlight, OldestSeconds: written.age(now), Blocking: written.Blocking})
		}
		v.Partitions[id] = w
	}
	if st.noNotes != nil {
		v.Unknown = "what other replicas have in flight: " + st.noNotes.Error()
	}
	return v
}

func (w *PartitionView) add(s Status) {
	w.InFlight, w.Oldest, w.Blocking = &s.InFlight, &s.OldestSeconds, s.Blocking
}

func (p *partition) snapshotNow(now time.Time) Status {
	s, _ := p.snapshot(now)
	return s
}

// own is what this member knows by itself.
func (s *Subscription) own() View {
	v := View{Name: s.cfg.Name, Group: s.cfg.Group, Topic: s.cfg.Topic, Sink: deliver.Shown(s.cfg.Sink), Partitions: []PartitionView{}}
	state, err := s.member.State()
	v.State = state.String()
	if err != nil {
		v.Reason = err.Error()
	}
	if err := s.gate.Unread(); err != nil {
		v.Reason = err.Error()
	} else if pause, _ := s.gate.Get(); pause != nil {
		v.State, v.Reason, v.Paused = "paused", pause.Reason, pause
	}
	s.mu.Lock()
	if s.missing != nil {
		v.Reason = s.missing.Error()
	}
	s.mu.Unlock()
	if h := s.pace.held(time.Now()); h != nil && v.Reason == "" {
		v.Reason = h.String()
	}
	for _, p := range s.Status() {
		w := PartitionView{Partition: p.Partition, Committed: p.Committed, End: p.End, Lag: p.Lag}
		w.add(p)
		v.Partitions = append(v.Partitions, w)
	}
	return v
}

// Has reports whether this member has the partition.
func (s *Subscription) Has(id int) bool {
	return slices.ContainsFunc(s.current(), func(p *partition) bool { return p.id == id })
}

// Status is the partitions of this member.
func (s *Subscription) Status() []Status {
	all, now := []Status{}, time.Now()
	for _, p := range s.current() {
		all = append(all, p.snapshotNow(now))
	}
	return slices.Clip(all)
}
