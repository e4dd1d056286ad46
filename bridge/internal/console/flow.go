package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/event"
)

const (
	flowRows   = 100
	lookUpTime = 5 * time.Second
	maxHeaders = 200 // of a record that are shown
)

// lane is a subscription in the line on top of the flow, and in the list of them.
type lane struct {
	pump.View
	Word, Sentence string
	Lag            int64
	InFlight       int
	Oldest         float64 // seconds
	PerMinute      int     // accepted in the last minute, the present quarter included
	Spark          []bar
	Statuses       []status
	Fault          string
	FaultUntil     time.Time
}

// bar is a quarter of a minute in the sparkline: heights of 24.
type bar struct{ X, Ok, Bad, Top, Base int }

type status struct {
	Code int
	N    int64
}

// lanes asks for all subscriptions at once: each of them asks the brokers.
func (c *Console) lanes(ctx context.Context, subs []*pump.Subscription) []lane {
	all := make([]lane, len(subs))
	var group errgroup.Group
	group.SetLimit(8)
	for i, s := range subs {
		group.Go(func() error { all[i] = c.lane(ctx, s); return nil })
	}
	_ = group.Wait() // there are no errors
	return all
}

func (c *Console) lane(ctx context.Context, s *pump.Subscription) lane {
	now := time.Now()
	l := lane{View: c.cfg.Admin.View(ctx, s)}
	l.Word, l.Sentence = why(l.View, c.cfg.Journal, now)
	for _, p := range l.Partitions {
		l.Lag += p.Lag
		if p.InFlight != nil {
			l.InFlight += *p.InFlight
		}
		if p.Oldest != nil {
			l.Oldest = max(l.Oldest, *p.Oldest)
		}
	}
	series := c.cfg.Journal.Series(l.Name, now)
	for _, n := range series.Accepted[journal.Buckets-4:] {
		l.PerMinute += n
	}
	l.Spark = spark(series)
	for code, n := range series.Statuses {
		l.Statuses = append(l.Statuses, status{code, n})
	}
	slices.SortFunc(l.Statuses, func(a, b status) int { return cmp.Compare(a.Code, b.Code) })
	l.Fault, l.FaultUntil = c.cfg.Fault.Get(l.Name)
	return l
}

func spark(s journal.Series) []bar {
	most := 1
	for i := range s.Accepted {
		most = max(most, s.Accepted[i]+s.Failed[i])
	}
	var bars []bar
	for i := range s.Accepted {
		ok, bad := (s.Accepted[i]*24+most-1)/most, (s.Failed[i]*24+most-1)/most
		if ok+bad > 0 {
			bars = append(bars, bar{X: i * 4, Ok: ok, Bad: bad, Top: max(0, 24-ok-bad), Base: 24 - ok})
		}
	}
	return bars
}

// row is an event and where it is with each subscription.
type row struct {
	Topic                     string
	Partition                 int
	Offset                    int64
	Event, Type, Key, Version string
	Time                      time.Time // published, else first seen
	Chips                     []chip
	first                     int64
}

// add takes the next older step of the event.
func (r *row) add(s *journal.Step) {
	r.Event, r.Type, r.Key, r.Version = cmp.Or(r.Event, s.Event), cmp.Or(r.Type, s.Type), cmp.Or(r.Key, s.Key), cmp.Or(r.Version, s.Version)
	if !slices.ContainsFunc(r.Chips, func(c chip) bool { return c.Subscription == s.Subscription }) {
		r.Chips = append(r.Chips, chipOf(s))
	}
}

// chip is how an event stands with a subscription.
type chip struct {
	Subscription string
	State        string // waiting, retrying, delivered, filtered, deadletter
	Text         string
	Next         time.Time
	Detail       string
}

func chipOf(s *journal.Step) chip {
	out := chip{Subscription: s.Subscription, Detail: clean(s.Error)}
	switch s.Kind {
	case journal.Received:
		out.State, out.Text = "waiting", "waiting"
	case journal.Undecoded:
		out.State, out.Text = "waiting", "waits for its schema"
	case journal.Filtered:
		out.State, out.Text = "filtered", "not wanted"
	case journal.DeadLetter:
		out.State, out.Text = "deadletter", "dead letter, "+clean(s.Outcome)
	case journal.Attempted:
		answer := "no answer"
		if s.Status > 0 {
			answer = strconv.Itoa(s.Status)
		}
		switch {
		case s.Outcome == journal.Accepted:
			out.State, out.Text = "delivered", answer+" in "+took(s.Took)
			if s.Attempt > 1 {
				out.Text += ", attempt " + strconv.Itoa(s.Attempt)
			}
		case s.Outcome == "rejected" && s.Next.IsZero():
			out.State, out.Text = "deadletter", answer+", refused"
		default:
			out.State, out.Text, out.Next = "retrying", "attempt "+strconv.Itoa(s.Attempt)+": "+answer, s.Next
		}
		if s.Redrive {
			out.Text += ", redriven"
		}
	}
	return out
}

// place is where an event is.
type place struct {
	topic     string
	partition int
	offset    int64
}

// flowFilter is what of the flow is shown.
type flowFilter struct{ Type, Key, State, Subscription string }

func (f flowFilter) shows(r *row) bool {
	match := func(want, have string) bool { return want == "" || strings.Contains(have, want) }
	if !match(f.Type, r.Type) || f.Key != "" && f.Key != r.Key && f.Key != r.Event {
		return false
	}
	if f.State == "" && f.Subscription == "" {
		return true
	}
	return slices.ContainsFunc(r.Chips, func(c chip) bool {
		return (f.State == "" || f.State == c.State) && (f.Subscription == "" || f.Subscription == c.Subscription)
	})
}

// rows makes rows of the journal, newest first.
func (c *Console) rows(f flowFilter) []*row {
	byPlace := map[place]*row{}
	var all []*row
	c.cfg.Journal.Backwards(func(s *journal.Step) bool {
		if s.Topic == "" {
			return true
		}
		c.shown(s)
		at := place{s.Topic, s.Partition, s.Offset}
		r := byPlace[at]
		if r == nil {
			r = &row{Topic: s.Topic, Partition: s.Partition, Offset: s.Offset}
			byPlace[at] = r
			all = append(all, r)
		}
		r.first = s.ID
		r.add(s)
		if r.Time = s.Published; r.Time.IsZero() {
			r.Time = s.At
		}
		return true
	})
	all = slices.DeleteFunc(all, func(r *row) bool { return !f.shows(r) })
	slices.SortFunc(all, func(a, b *row) int { return cmp.Compare(b.first, a.first) })
	for _, r := range all {
		slices.SortFunc(r.Chips, func(a, b chip) int { return cmp.Compare(a.Subscription, b.Subscription) })
	}
	return all[:min(len(all), flowRows)]
}

type flowData struct {
	Lanes     []lane
	Rows      []*row
	Filter    flowFilter
	Filtered  bool
	Since     time.Time
	TaskAPI   string
	States    []string
	End       int64 // of the topics
	Alone     bool  // the brokers do not answer
	Elsewhere bool  // partitions that other bridges have
}

func (c *Console) flow(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	d := flowData{States: []string{"waiting", "retrying", "delivered", "filtered", "deadletter"}, Since: c.cfg.Journal.Since, Filter: flowFilter{q.Get("type"), q.Get("key"), q.Get("state"), q.Get("subscription")}}
	d.Filtered = d.Filter != flowFilter{}
	d.Lanes, d.Rows = c.lanes(r.Context(), c.cfg.Subscriptions()), c.rows(d.Filter)
	d.TaskAPI = cmp.Or(c.cfg.TaskAPI, "http://localhost:8000/")
	if !strings.HasSuffix(d.TaskAPI, "/") {
		d.TaskAPI += "/"
	}
	seen := map[string]bool{}
	for i, s := range c.cfg.Subscriptions() {
		l := d.Lanes[i]
		d.Alone = d.Alone || l.Alone
		for _, p := range l.Partitions {
			if !seen[l.Topic] {
				d.End += max(0, p.End)
			}
			d.Elsewhere = d.Elsewhere || p.Owner != nil && !s.Has(p.Partition)
		}
		seen[l.Topic] = true
	}
	c.show(w, r, http.StatusOK, "flow", "Flow", d)
}

// content is a record as it is shown.
type content struct {
	Hidden  string // why it is not shown
	Pretty  string
	Hex     string
	Size    int
	Headers []header
	Event   event.Event
	IsEvent bool
	Problem string // why it is no event
}

type header struct{ Name, Value string }

// content shows a record to whom may see it.
func (c *Console) content(r *http.Request, rec event.Record) content {
	out := content{Size: len(rec.Value)}
	switch {
	case c.cfg.Admin.HidePayloads:
		out.Hidden = hidden
		return out
	case !c.cfg.Admin.Operator(r):
		out.Hidden = "Payloads are for operators: set ADMIN_TOKEN_FILE and sign in. Without a token they are shown only when the bridge listens on a loopback address."
		return out
	}
	out.Pretty, out.Hex = pretty(rec.Value), hexdump(rec.Value)
	for _, h := range rec.Headers[:min(len(rec.Headers), maxHeaders)] {
		out.Headers = append(out.Headers, header{brief(h.Key), brief(string(h.Value))})
	}
	e, _, err := event.FromRecord(rec)
	if out.IsEvent = err == nil; out.IsEvent {
		out.Event = e
	} else {
		out.Problem = brief(err.Error())
	}
	return out
}

type eventData struct {
	row
	Steps     []journal.Step
	Since     time.Time
	Published time.Time
	Changed   time.Time // the event's own time
	Missing   string    // why there is no record
	Content   content
	Tab       string
	Audit     bool
	Curl      string
	Settled   bool
}

func (c *Console) event(w http.ResponseWriter, r *http.Request) {
	at, ok := placeOf(r)
	if !ok {
		c.fail(w, r, http.StatusNotFound, "Partition and offset are numbers.")
		return
	}
	d := eventData{row: row{Topic: at.topic, Partition: at.partition, Offset: at.offset}, Since: c.cfg.Journal.Since, Tab: r.URL.Query().Get("tab"), Audit: c.auditor != nil}
	c.cfg.Journal.Backwards(func(s *journal.Step) bool {
		if s.Topic != at.topic || s.Partition != at.partition || s.Offset != at.offset {
			return true
		}
		c.shown(s)
		d.Steps = append(d.Steps, *s)
		d.add(s)
		d.Published = s.Published
		return true
	})
	slices.Reverse(d.Steps)
	rec, err := c.record(r.Context(), at)
	switch {
	case err != nil && len(d.Steps) == 0:
		c.fail(w, r, statusOfRecord(err), sentence(err))
		return
	case err != nil:
		d.Missing = sentence(err)
	default:
		d.Published, d.Key = rec.Time, string(rec.Key)
		d.Content = c.content(r, rec)
		if e := d.Content.Event; d.Content.IsEvent {
			d.Event, d.Type, d.Changed = e.ID(), e.Type(), e.Time()
			d.Version, _ = event.Attribute(e, event.VersionOfTask)
		}
		if d.Content.Hidden == "" {
			d.Curl = curlEvent(rec.Value)
		}
	}
	d.Time = d.Published
	c.show(w, r, http.StatusOK, "event", "Event", d)
}

func placeOf(r *http.Request) (place, bool) {
	partition, err := strconv.Atoi(r.PathValue("partition"))
	offset, err2 := strconv.ParseInt(r.PathValue("offset"), 10, 64)
	return place{r.PathValue("topic"), partition, offset}, err == nil && err2 == nil && partition >= 0 && offset >= 0
}

var (
	errElsewhere = errors.New("no subscription reads this topic")
	errNoRecord  = errors.New("the record is not on the topic: its retention has deleted it, or it was never there")
)

// record reads one record of a topic that a subscription reads: no other topic can
// be read through the console.
func (c *Console) record(ctx context.Context, at place) (event.Record, error) {
	for _, s := range c.cfg.Subscriptions() {
		if box := s.Mailbox(); box.Source == at.topic {
			return readOne(ctx, box, at)
		}
	}
	return event.Record{}, errElsewhere
}

// statusOfRecord tells a record that is not there from brokers that do not answer.
func statusOfRecord(err error) int {
	if errors.Is(err, errElsewhere) || errors.Is(err, errNoRecord) || errors.Is(err, kafkago.OffsetOutOfRange) || errors.Is(err, kafkago.UnknownTopicOrPartition) {
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

var errFound = errors.New("found")

func readOne(ctx context.Context, box pump.Mailbox, at place) (rec event.Record, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	_, err = deadletter.Scan(ctx, box.Client, deadletter.Range{Topic: at.topic, Partition: at.partition, From: at.offset, To: at.offset + 1}, func(r fetch.Record) error {
		if r.Offset == at.offset {
			rec = r.Record
			return errFound
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return rec, nil
	case err == nil:
		return rec, errNoRecord
	}
	return rec, err
}

// sentence is an error as one.
func sentence(err error) string {
	s := clean(err.Error())
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

// curlEvent posts an event to a sink of the reader's choice.
func curlEvent(body []byte) string {
	if len(body) > 8<<10 {
		return ""
	}
	return "curl -X POST http://localhost:8003/ -H 'Content-Type: application/cloudevents+json' -d " + shell(string(body))
}

// shell quotes text for a shell. A text that could hide something is given up.
func shell(s string) string {
	if clean(s) != s {
		return "@event.json"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
