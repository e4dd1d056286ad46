package pump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/internal/kafka"
)

// What only the owner of a partition knows, such as what it has in flight, it
// writes down where every replica can read it: as the metadata of an offset of
// the group <group>.status, which has no members and whose offsets mean nothing.
// Kafka keeps the last one of each partition and forgets them all when nobody has
// written for offsets.retention.minutes. Nothing depends on a note but what
// operators see.
//
// A note names its member: it counts as long as the coordinator says that this
// member has the partition. So no clock decides whether it is too old, and an
// owner of yesterday cannot speak for the one of today.

const (
	noteEvery = time.Second     // while something changes
	noteAgain = 5 * time.Second // when nothing does: a zombie may have overwritten it
	noteLimit = 3500            // bytes; brokers take 4096
	noteText  = 300             // bytes of a key, id or reason; escaping may make six of one
)

// note is what the owner of a partition has to say.
type note struct {
	Member   string    `json:"member"`
	At       time.Time `json:"at"`
	InFlight int       `json:"in_flight"`
	Oldest   float64   `json:"oldest_unacked_seconds"` // at At
	Blocking *Block    `json:"blocking,omitempty"`
}

func (s *Subscription) notesGroup() string { return s.cfg.Group + ".status" }

func (n note) encode() (string, error) {
	for limit := noteText; ; limit /= 2 {
		if n.Blocking != nil {
			b := *n.Blocking
			b.Key, b.EventID, b.Reason = shorten(b.Key, limit), shorten(b.EventID, limit), shorten(b.Reason, limit)
			n.Blocking = &b
		}
		text, err := json.Marshal(n)
		if err != nil || len(text) <= noteLimit || limit == 0 {
			return string(text), err
		}
	}
}

func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…" // a cut rune becomes U+FFFD in JSON
}

func decodeNote(text string) (n note, err error) {
	if text == "" {
		return note{}, errors.New("no note")
	}
	err = json.Unmarshal([]byte(text), &n)
	return n, err
}

// age is how old the oldest event is now that was in flight then.
func (n note) age(now time.Time) float64 {
	if n.Oldest == 0 {
		return 0
	}
	return n.Oldest + max(0, now.Sub(n.At).Seconds())
}

// writeNotes writes down what has changed, until ctx ends.
func (s *Subscription) writeNotes(ctx context.Context, session *group.Session) {
	ticker := time.NewTicker(noteEvery)
	defer ticker.Stop()
	report := rate.Sometimes{Interval: 10 * time.Minute}
	written := map[int]note{}
	var at time.Time
	for {
		now := time.Now()
		if now.Sub(at) >= noteAgain {
			clear(written)
			at = now
		}
		if err := s.note(ctx, session, written, now); err != nil && ctx.Err() == nil {
			report.Do(func() {
				s.log.Warn("state for the other replicas cannot be written, they do not show what this one has in flight", "group", s.notesGroup(), "err", err)
			})
			at = now // with everything, but not sooner than that
			clear(written)
			if !sleepUntil(ctx, ticker.C, int(noteAgain/noteEvery)) {
				return
			}
			continue
		}
		if !sleepUntil(ctx, ticker.C, 1) {
			return
		}
	}
}

// sleepUntil waits for a number of ticks; false when ctx has ended.
func sleepUntil(ctx context.Context, tick <-chan time.Time, ticks int) bool {
	for range ticks {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
		}
	}
	return true
}

// note stores the notes that differ from those in written, in one request.
func (s *Subscription) note(ctx context.Context, session *group.Session, written map[int]note, now time.Time) error {
	var commits []kafkago.OffsetCommit
	fresh := map[int]note{}
	mine := s.current()
	maps.DeleteFunc(written, func(id int, _ note) bool { // another member may have written since
		return !slices.ContainsFunc(mine, func(p *partition) bool { return p.id == id })
	})
	for _, p := range mine {
		status, _ := p.snapshot(now)
		n := note{Member: session.MemberID, InFlight: status.InFlight, Oldest: status.OldestSeconds, Blocking: status.Blocking}
		if old, ok := written[p.id]; ok && n.same(old, now) {
			continue
		}
		n.At = now.UTC().Truncate(time.Millisecond)
		text, err := n.encode()
		if err != nil {
			return err
		}
		commits, fresh[p.id] = append(commits, kafkago.OffsetCommit{Partition: p.id, Offset: max(0, status.Committed), Metadata: text}), n
	}
	if len(commits) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, standingTimeout)
	defer cancel()
	resp, err := s.client.OffsetCommit(ctx, &kafkago.OffsetCommitRequest{GroupID: s.notesGroup(), GenerationID: -1, Topics: map[string][]kafkago.OffsetCommit{s.cfg.Topic: commits}})
	if err != nil {
		return kafka.Plain(err)
	}
	for _, p := range resp.Topics[s.cfg.Topic] {
		if p.Error != nil {
			return fmt.Errorf("partition %d: %w", p.Partition, p.Error)
		}
		written[p.Partition] = fresh[p.Partition]
	}
	return nil
}

// same reports whether old still says what n does: its age grows by itself.
func (n note) same(old note, now time.Time) bool {
	grown := old.age(now) - n.Oldest
	return n.InFlight == old.InFlight && grown > -0.5 && grown < 0.5 &&
		(n.Blocking == nil) == (old.Blocking == nil) && (n.Blocking == nil || *n.Blocking == *old.Blocking)
}
