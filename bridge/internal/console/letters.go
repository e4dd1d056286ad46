package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/event"
)

const (
	letterRows  = 100
	laterEvents = 10
	laterTime   = 3 * time.Second
	askNumber   = 100 // letters above which a redrive asks for their number
)

// letterFilter is the form that chooses letters, as it was filled in.
type letterFilter struct {
	Subscription, Reason, Status, Type, Key, ID, Since string
	Done                                               bool
}

func filterOf(q url.Values) letterFilter {
	get := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	return letterFilter{get("subscription"), get("reason"), get("status"), get("type"), get("key"), get("id"), get("since"), q.Get("done") == "true"}
}

// Query is the filter in an address, without the letters that are done.
func (f letterFilter) Query() string {
	q := url.Values{}
	for name, v := range map[string]string{"subscription": f.Subscription, "reason": f.Reason, "status": f.Status, "type": f.Type, "key": f.Key, "id": f.ID, "since": f.Since} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q.Encode()
}

// With is the address with one member changed.
func (f letterFilter) With(name, value string) string {
	q, _ := url.ParseQuery(f.Query()) // its own encoding
	q.Set(name, value)
	return q.Encode()
}

// Empty reports whether it chooses every letter of the subscription.
func (f letterFilter) Empty() bool {
	f.Subscription, f.Done = "", false
	return f == letterFilter{}
}

func (f letterFilter) selection(now time.Time) (deadletter.Selection, error) {
	one := func(v string) []string {
		if v == "" {
			return nil
		}
		return []string{v}
	}
	s := deadletter.Selection{IDs: one(f.ID), Types: one(f.Type), Reasons: one(f.Reason), Keys: one(f.Key)}
	if f.Status != "" {
		n, err := strconv.Atoi(f.Status)
		if err != nil {
			return s, errors.New("the status is a number")
		}
		s.Statuses = []int{n}
	}
	if f.Since != "" {
		d, err := time.ParseDuration(f.Since)
		at, err2 := time.Parse(time.RFC3339, f.Since)
		switch {
		case err == nil && d > 0:
			s.Since = now.Add(-d)
		case err2 == nil:
			s.Since = at
		default:
			return s, errors.New("since is a time such as 2026-01-02T15:04:05Z or a duration such as 2h")
		}
	}
	return s, s.Check()
}

// facet is a value that letters have, and how many.
type facet struct {
	Value string
	N     int
}

type lettersData struct {
	Filter                letterFilter
	Names, AllReasons     []string
	Letters               []admin.Letter
	Reasons, Codes, Types []facet
	Counted               int
	More                  string // where the next page begins
	Expired               int64
	Warning               string
	Problem               string
	Paused                string
	Jobs                  []redrive.View
}

func (c *Console) deadLetters(w http.ResponseWriter, r *http.Request) {
	d, status := lettersData{AllReasons: deadletter.Reasons(), Filter: filterOf(r.URL.Query())}, http.StatusOK
	for _, s := range c.cfg.Subscriptions() {
		d.Names = append(d.Names, s.Name())
	}
	if d.Filter.Subscription == "" && len(d.Names) > 0 {
		d.Filter.Subscription = cmp.Or(c.latest(d.Names), d.Names[0])
	}
	for _, j := range c.cfg.Admin.Jobs.List() {
		if j.Subscription == d.Filter.Subscription {
			d.Jobs = append(d.Jobs, j)
		}
	}
	slices.Reverse(d.Jobs)
	d.Jobs = d.Jobs[:min(len(d.Jobs), 5)]
	s := c.find(d.Filter.Subscription)
	chosen, err := d.Filter.selection(time.Now())
	switch {
	case s == nil:
		err, status = errNone, http.StatusNotFound
	case err != nil:
		status = http.StatusUnprocessableEntity
	default:
		d.Paused = clean(s.Paused())
		var p *admin.Page
		if p, err = c.cfg.Admin.ReadLetters(r.Context(), s, admin.Query{Select: chosen, Done: d.Filter.Done, Limit: 1000, After: r.URL.Query().Get("after")}); err == nil {
			d.fill(p)
		}
	}
	if err != nil {
		d.Problem = sentence(err)
		if status == http.StatusOK {
			status = http.StatusServiceUnavailable
		}
	}
	c.show(w, r, status, "deadletters", "Dead letters", d)
}

// latest is the subscription that the newest dead letter here is of, "" without one.
func (c *Console) latest(names []string) (name string) {
	c.cfg.Journal.Backwards(func(s *journal.Step) bool {
		if s.Kind == journal.DeadLetter && slices.Contains(names, s.Subscription) {
			name = s.Subscription
		}
		return name == ""
	})
	return name
}

// fill counts what was read, and keeps as many letters as a page shows.
func (d *lettersData) fill(p *admin.Page) {
	reasons, codes, types := map[string]int{}, map[string]int{}, map[string]int{}
	for _, l := range p.Letters {
		reasons[l.Reason]++
		types[l.Type]++
		codes[strconv.Itoa(l.Status)]++
	}
	d.Reasons, d.Codes, d.Types = facets(reasons), facets(codes), facets(types)
	d.Letters, d.Counted, d.More, d.Expired, d.Warning = p.Letters, len(p.Letters), p.Next, p.Expired, clean(p.Warning)
	if len(d.Letters) > letterRows {
		d.Letters = d.Letters[:letterRows]
		at := p.Letters[letterRows].Place
		d.More = at
	}
}

func facets(counted map[string]int) []facet {
	var all []facet
	for v, n := range counted {
		if len(v) > maxBrief {
			continue // nobody filters by that
		}
		all = append(all, facet{v, n})
	}
	slices.SortFunc(all, func(a, b facet) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Value, b.Value)) })
	return all[:min(len(all), 8)]
}

type letterData struct {
	Subscription string
	Letter       deadletter.Letter
	Place        string
	ID, Type     string
	Key          string
	Done         bool
	Why          string
	Content      content
	Dead         []header // the headers that made it a dead letter
	Later        []later
	LaterProblem string
	Paused       string
	Tab          string
}

// later is an event of the same key that came after the letter's.
type later struct {
	place
	Event, Type, Version string
	Time                 time.Time
}

// Topic, Partition and Offset are for the template.
func (l later) Topic() string  { return l.topic }
func (l later) Partition() int { return l.partition }
func (l later) Offset() int64  { return l.offset }

func (c *Console) deadLetter(w http.ResponseWriter, r *http.Request) {
	s := c.find(r.PathValue("name"))
	at, ok := placeOf(r)
	if s == nil || !ok {
		c.fail(w, r, http.StatusNotFound, "There is no such dead letter.")
		return
	}
	leave, ok := c.cfg.Admin.Letters.Enter() // it scans the topic
	if !ok {
		c.fail(w, r, http.StatusServiceUnavailable, sentence(admin.ErrBusy))
		return
	}
	defer leave()
	box := s.Mailbox()
	at.topic = box.Topic
	rec, err := readOne(r.Context(), box, at)
	if err != nil {
		c.fail(w, r, statusOfRecord(err), sentence(err))
		return
	}
	l, ok := deadletter.FromRecord(at.partition, fetch.Record{Offset: at.offset, Record: rec})
	if !ok || l.Letter.Subscription != s.Name() {
		c.fail(w, r, http.StatusNotFound, "There is no such dead letter of this subscription.")
		return
	}
	l.Letter.Error = c.cfg.Admin.Said(l.Letter.Error)
	d := letterData{Subscription: s.Name(), Letter: l.Letter, Place: l.Place(), ID: l.ID, Type: l.Type, Key: string(rec.Key), Why: whyDead(l.Letter), Paused: clean(s.Paused()), Tab: r.URL.Query().Get("tab")}
	positions, err := deadletter.Positions(r.Context(), box.Client, box.Group, box.Topic, box.Keys)
	if err == nil && at.partition < len(positions) {
		d.Done = positions[at.partition].Done(at.offset)
	}
	d.Content = c.content(r, deadletter.Original(rec))
	for _, h := range rec.Headers {
		if strings.HasPrefix(h.Key, deadletter.Prefix) {
			d.Dead = append(d.Dead, header{brief(h.Key), brief(c.cfg.Admin.Said(string(h.Value)))})
		}
	}
	if l.Letter.Topic == box.Source && rec.Key != nil {
		if d.Later, err = laterOf(r.Context(), box, l); err != nil {
			d.LaterProblem = sentence(err)
		}
	}
	c.show(w, r, http.StatusOK, "deadletter", "Dead letter", d)
}

// whyDead is the reason in a sentence.
func whyDead(l deadletter.Letter) string {
	e := brief(l.Error)
	switch l.Reason {
	case deadletter.Rejected:
		return "The sink refused the event: " + e + "."
	case deadletter.Exhausted:
		return "The sink did not take the event in " + plural(l.Attempts, "attempt", "attempts") + "; the last time: " + e + "."
	case deadletter.Malformed:
		return "The record is not an event: " + e + "."
	case deadletter.Expired:
		return "The time after which nobody wants the event was over: " + e + "."
	case deadletter.Skipped:
		return clean(l.SkippedBy) + " set the event aside: " + clean(l.SkippedReason) + "."
	}
	return e
}

// laterOf reads the events of the same key behind the letter's own, a few of them and
// for a short time.
func laterOf(ctx context.Context, box pump.Mailbox, l deadletter.Stored) (out []later, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, laterTime, errFound)
	defer cancel()
	bounds, err := deadletter.Bounds(ctx, box.Client, box.Source)
	if err != nil || l.Letter.Partition >= len(bounds) {
		return nil, err
	}
	b := bounds[l.Letter.Partition]
	_, err = deadletter.Scan(ctx, box.Client, deadletter.Range{Topic: box.Source, Partition: b.Partition, From: max(b.First, l.Letter.Offset+1), To: b.End}, func(rec fetch.Record) error {
		if string(rec.Key) != string(l.Record.Key) {
			return nil
		}
		one := later{place: place{box.Source, b.Partition, rec.Offset}, Time: rec.Time}
		if e, _, err := event.FromRecord(rec.Record); err == nil {
			one.Event, one.Type = e.ID(), e.Type()
			one.Version, _ = event.Attribute(e, event.VersionOfTask)
		}
		if out = append(out, one); len(out) == laterEvents {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return out, err
}

// plan begins the dry run that comes before a redrive.
func (c *Console) plan(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	f := filterOf(r.PostForm)
	kind := redrive.Kind(r.PostFormValue("kind"))
	chosen, err := f.selection(time.Now())
	if selected := r.PostFormValue("selected"); selected != "" {
		if kind, chosen = redrive.Kind(selected), (deadletter.Selection{IDs: r.PostForm["place"]}); chosen.Empty() {
			c.fail(w, r, http.StatusUnprocessableEntity, "No letter is selected. Tick some of them, or work on all that match the filter.")
			return
		}
		err = chosen.Check()
	}
	if err != nil || kind != redrive.Redrive && kind != redrive.Ignore {
		c.fail(w, r, http.StatusUnprocessableEntity, "The selection is not complete. "+sentence(cmp.Or(err, errors.New("want redrive or ignore"))))
		return
	}
	c.start(w, r, redrive.Request{Kind: kind, Subscription: f.Subscription, Select: chosen, DryRun: true, By: c.by(r)})
}

func (c *Console) start(w http.ResponseWriter, r *http.Request, req redrive.Request) {
	v, err := c.cfg.Admin.Jobs.Start(req)
	var refused *pump.RefusedError
	switch {
	case errors.Is(err, redrive.ErrUnknown):
		c.fail(w, r, http.StatusNotFound, "There is no subscription with this name.")
	case errors.As(err, &refused):
		c.fail(w, r, http.StatusConflict, sentence(err))
	case err != nil:
		c.fail(w, r, http.StatusServiceUnavailable, sentence(err))
	default:
		c.changed()
		http.Redirect(w, r, c.cfg.Base+"/console/jobs/"+esc(v.ID), http.StatusSeeOther)
	}
}

type jobData struct {
	redrive.View
	Total     int64 // letters of the plan or, of a pass, those that it knows of
	DoneSoFar int64
	AskNumber bool
	Lane      *lane
	Paused    string
	Seconds   float64 // that it will take if the letters go one after the other, as posts took lately; 0 for unknown
	Problem   string
	All       bool
}

func (c *Console) job(w http.ResponseWriter, r *http.Request) { c.showJob(w, r, http.StatusOK, "") }

func (c *Console) showJob(w http.ResponseWriter, r *http.Request, status int, problem string) {
	v, ok := c.cfg.Admin.Jobs.Get(r.PathValue("id"))
	if !ok {
		c.fail(w, r, http.StatusNotFound, "This bridge knows no such job: it runs in the replica that was asked for it, and ends with it. What it has done is kept.")
		return
	}
	d := jobData{View: v, Problem: problem, All: v.Select.Empty()}
	if s := c.find(v.Subscription); s != nil {
		l := c.lane(r.Context(), s)
		d.Lane, d.Paused = &l, clean(s.Paused())
	}
	if v.Plan != nil {
		d.Total, d.AskNumber = v.Plan.Letters, v.Plan.Letters > askNumber
		if usual := c.usual(v.Subscription); usual > 0 {
			d.Seconds = max(1, float64(v.Plan.Letters)*usual.Seconds())
		}
	}
	if p := v.Progress; p != nil {
		d.DoneSoFar = p.Delivered + p.Failed + p.Filtered + p.Ignored
		d.Total = d.DoneSoFar + p.InHand + p.Unread
	}
	c.show(w, r, status, "job", "Dead letters", d)
}

// usual is how long the latest accepted posts of a subscription took, on average.
func (c *Console) usual(subscription string) time.Duration {
	var sum time.Duration
	n := time.Duration(0)
	c.cfg.Journal.Backwards(func(s *journal.Step) bool {
		if s.Subscription == subscription && s.Kind == journal.Attempted && s.Outcome == journal.Accepted {
			sum += s.Took
			n++
		}
		return n < 50
	})
	return sum / max(n, 1)
}

// startJob does what a dry run has counted. The selection is that of the dry run, so
// nobody can be shown one number and start another.
func (c *Console) startJob(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	v, ok := c.cfg.Admin.Jobs.Get(r.PathValue("id"))
	if !ok || v.Plan == nil || v.State != redrive.Done {
		c.fail(w, r, http.StatusConflict, "The dry run is not known, or not over.")
		return
	}
	if typed := strings.ReplaceAll(strings.TrimSpace(r.PostFormValue("number")), ",", ""); v.Plan.Letters > askNumber && typed != strconv.FormatInt(v.Plan.Letters, 10) {
		c.showJob(w, r, http.StatusUnprocessableEntity, "Type the number of letters, "+count(v.Plan.Letters)+", to confirm.")
		return
	}
	req := redrive.Request{Kind: v.Kind, Subscription: v.Subscription, Select: v.Select, By: c.by(r), Reason: strings.TrimSpace(r.PostFormValue("reason"))}
	if req.Kind == redrive.Ignore && !admin.Worded(req.Reason) {
		c.showJob(w, r, http.StatusUnprocessableEntity, "Say why these letters are given up.")
		return
	}
	if text := strings.TrimSpace(r.PostFormValue("rate")); text != "" {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil || !(rate >= 0 && rate <= 1e6) {
			c.showJob(w, r, http.StatusUnprocessableEntity, "The rate is a number of posts per second.")
			return
		}
		req.Rate = rate
	}
	c.start(w, r, req)
}

func (c *Console) cancelJob(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	c.cfg.Admin.Jobs.Cancel(r.PathValue("id"), c.by(r))
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	_, _ = c.cfg.Admin.Jobs.Await(ctx, r.PathValue("id")) // the page says how it stands
	c.changed()
	http.Redirect(w, r, c.cfg.Base+"/console/jobs/"+esc(r.PathValue("id")), http.StatusSeeOther)
}
