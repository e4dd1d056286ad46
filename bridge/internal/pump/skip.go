package pump

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/webhook"
)

// Skip is an operator's wish to set one event aside that holds others back.
type Skip struct {
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
	By        string `json:"by"`
}

// skip is a Skip on its way through a partition. answer has room for one.
type skip struct {
	Skip
	answer chan error
}

// ErrPending says that a skip was asked for and is not done yet.
var ErrPending = errors.New("not done yet: the dead letter, or the notice to the sink, has still to be stored; GET /subscriptions shows what it waits for")

// Skip makes a dead letter of an event that has failed, and posts a notice of
// that to the sink in the event's place. It returns nil when its offset is done,
// a *RefusedError when there is nothing to skip, and ErrPending when ctx ends
// first.
//
// A process that dies before that delivers the event as if nobody had asked.
func (s *Subscription) Skip(ctx context.Context, wish Skip) error {
	for _, p := range s.current() {
		if p.id == wish.Partition {
			return p.request(ctx, &skip{wish, make(chan error, 1)})
		}
	}
	return &RefusedError{"this bridge does not have the partition; ask the replica whose GET /subscriptions shows it"}
}

func (p *partition) request(ctx context.Context, s *skip) error {
	select {
	case p.skips <- s:
	case <-p.over:
		return errMoved
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-s.answer:
		return err
	case <-p.over:
		return errMoved
	case <-ctx.Done():
		return ErrPending
	}
}

var errNotTried = errors.New("not tried: it waited for the sink")

// skip begins what an operator asked for, or refuses it. An event that is being
// posted is set aside when that has failed once more.
func (p *partition) skip(s *skip, now time.Time, paused bool) {
	it := p.window.find(s.Offset)
	if why := p.unskippable(it, paused); why != "" {
		s.answer <- &RefusedError{why}
		return
	}
	if it.skip != nil {
		it.skip.answer <- &RefusedError{"it was asked for again"}
	}
	it.skip = s
	if it.state == posting {
		return
	}
	p.window.withdraw(it)
	p.forgetSchema(it)
	if it.err == nil {
		it.fail(errNotTried, now)
	}
	p.setAside(it, deadletter.Skipped, now)
}

// unskippable is why an item cannot be skipped, "" when it can. Only what has
// failed, or holds the commit back, may be: anything else would be a way to lose
// events without need.
func (p *partition) unskippable(it *item, paused bool) string {
	switch {
	case paused:
		return "the subscription is paused; resume it first"
	case it == nil:
		return "there is no event of this offset in hand: it is done already, or was not fetched yet"
	case it.queue.head != it:
		return fmt.Sprintf("the event has not failed: it waits for offset %d of the same key", it.queue.head.offset)
	case it.state == writing:
		return "the event is being made a dead letter already"
	case it.skip != nil && !it.notice:
		return "somebody has asked for this already"
	case it.notice || it.attempts > 0 || it.state == undecoded && it.err != nil:
		return ""
	}
	if block, _ := p.blocking(it); block != nil && it == p.window.lowest() {
		return ""
	}
	return "the event has not failed"
}

// skipped follows the dead letter of a skipped event: its place in the key is
// taken by a notice, so that the sink's own records, an audit log above all, say
// that an event is missing, who wanted that, and why. The offset is done when the
// sink has taken the notice. A subscription whose filters do not ask for notices
// gets none.
func (p *partition) skipped(it *item, now time.Time) {
	p.sub.log.Warn("event skipped by an operator", append(p.attrs(it), "by", it.skip.By, "reason", it.skip.Reason)...)
	e, err := p.notice(it, now)
	if err != nil || !p.wants(e, it.offset) {
		if err != nil {
			p.sub.log.Error("no notice of a skipped event", append(p.attrs(it), "err", err)...)
		}
		p.done(it)
		return
	}
	p.sub.breaker.forget(p.at(it.queue.key))
	it.notice, it.event, it.kind, it.expires = true, e.ID(), e.Type(), time.Time{}
	if p.sub.sink.Signs() {
		it.webhookID = webhook.ID(e.Source(), e.ID())
	}
	it.state, it.attempts, it.counted, it.status, it.err, it.first = queued, 0, 0, 0, nil, time.Time{}
	p.window.push(it)
}

// TypeSkipped is the type of the notices.
const TypeSkipped = "taskwire.bridge.skipped"

// notice is the CloudEvent about a skipped event. It has the subject and the key
// of that event, and an id that no other notice has: the same event may be
// skipped twice, when the bridge dies in between.
//
// It leaves it with the notice to post; its size stays that of the record, which
// is what it was counted with.
func (p *partition) notice(it *item, now time.Time) (event.Event, error) {
	digest := sha256.Sum256(it.record.Value)
	of, _, _ := p.read(it) // it was one when it came
	subject, _ := event.Attribute(of, "subject")
	key, _ := event.Attribute(of, event.PartitionKey)
	source, _ := event.Attribute(of, "source")
	type data struct {
		Topic        string `json:"topic"`
		Partition    int    `json:"partition"`
		Offset       int64  `json:"offset"`
		Group        string `json:"group"`
		Subscription string `json:"subscription"`
		EventID      string `json:"event_id"`
		EventSource  string `json:"event_source"`
		EventType    string `json:"event_type"`
		Digest       string `json:"record_value_sha256"`
		DeadLetters  string `json:"deadletter_topic"`
		Attempts     int    `json:"attempts"`
		Error        string `json:"error"`
		Reason       string `json:"reason"`
		By           string `json:"by"`
	}
	body, err := json.Marshal(struct {
		SpecVersion string `json:"specversion"`
		ID          string `json:"id"`
		Source      string `json:"source"`
		Type        string `json:"type"`
		Subject     string `json:"subject,omitempty"`
		Time        string `json:"time"`
		Key         string `json:"partitionkey,omitempty"`
		ContentType string `json:"datacontenttype"`
		Data        data   `json:"data"`
	}{
		"1.0", fmt.Sprintf("%s/%s/%d/skipped/%d", p.sub.cfg.Topic, p.name, it.offset, now.UnixNano()), "bridge", TypeSkipped,
		subject, now.UTC().Format(time.RFC3339Nano), key, "application/json",
		data{p.sub.cfg.Topic, p.id, it.offset, p.sub.cfg.Group, p.sub.cfg.Name, it.event, source, it.kind, hex.EncodeToString(digest[:]),
			p.sub.cfg.DeadLetter, it.attempts, it.err.Error(), it.skip.Reason, it.skip.By},
	})
	if err != nil {
		return event.Event{}, err
	}
	e, err := event.Parse(body)
	if err != nil {
		return event.Event{}, err
	}
	size := it.size
	defer func() { it.size = size }()
	return e, it.shape(p.sub.cfg.Mode, e, body)
}

// giveUpNotice ends the wait for a sink that does not take a notice.
func (p *partition) giveUpNotice(it *item) {
	p.sub.log.Error("notice of a skipped event given up, the sink has not taken it", append(p.attrs(it), "err", it.err)...)
	p.done(it)
}

// wish is what an operator wants for the item, empty for nothing.
func (it *item) wish() Skip {
	if it.skip == nil {
		return Skip{}
	}
	return it.skip.Skip
}

// answerSkip tells whoever asked for it what became of a skip, when the item is done.
func (it *item) answerSkip() {
	if it.skip == nil {
		return
	}
	var err error
	if it.reason != deadletter.Skipped {
		err = &RefusedError{"the sink has accepted the event in the meantime; nothing was skipped"}
	}
	it.skip.answer <- err
	it.skip = nil
}
