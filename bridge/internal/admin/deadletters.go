package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/httpd"
)

const (
	// readTime bounds one page of letters: it ends where the time is over.
	readTime = 15 * time.Second
	// readers bounds how many pages are read at once, and so their memory.
	readers = 2
	// pageBytes bounds the payloads of one page.
	pageBytes = 1 << 20
)

// RedriveRequest is the body of POST /deadletters/redrive and, with a reason, of
// POST /deadletters/ignore.
type RedriveRequest struct {
	Subscription string               `json:"subscription"`
	By           string               `json:"by"`
	Select       deadletter.Selection `json:"select"`
	All          bool                 `json:"all,omitempty"` // an empty selection is meant
	DryRun       bool                 `json:"dry_run,omitempty"`
	Rate         float64              `json:"rate,omitempty"`
	Reason       string               `json:"reason,omitempty"`
}

// deadLetters adds the routes about dead letters.
func (c Config) deadLetters(mux *http.ServeMux, subs func() []*pump.Subscription) {
	jobs := c.Jobs
	mux.HandleFunc("GET /deadletters", func(w http.ResponseWriter, r *http.Request) { c.list(w, r, subs) })
	for _, kind := range []redrive.Kind{redrive.Redrive, redrive.Ignore} {
		mux.HandleFunc("POST /deadletters/"+string(kind), func(w http.ResponseWriter, r *http.Request) { start(w, r, jobs, kind) })
	}
	mux.HandleFunc("GET /deadletters/jobs", func(w http.ResponseWriter, _ *http.Request) { write(w, map[string]any{"jobs": jobs.List()}) })
	mux.HandleFunc("GET /deadletters/jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		seconds, _ := strconv.Atoi(r.URL.Query().Get("wait")) // 0 for none or nonsense
		ctx, cancel := context.WithTimeout(r.Context(), time.Duration(max(0, min(seconds, 30)))*time.Second)
		defer cancel()
		answerJob(w, jobs, ctx, r.PathValue("id"))
	})
	mux.HandleFunc("DELETE /deadletters/jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		jobs.Cancel(r.PathValue("id"), who(r, "somebody"))
		ctx, cancel := context.WithTimeout(r.Context(), repairTime)
		defer cancel()
		answerJob(w, jobs, ctx, r.PathValue("id"))
	})
}

func answerJob(w http.ResponseWriter, jobs *redrive.Jobs, ctx context.Context, id string) { //nolint:revive // not the request's own context
	v, ok := jobs.Await(ctx, id)
	if !ok {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "this bridge knows no such job: it runs in the replica that was asked for it, and ends with it; what it has done is kept"})
		return
	}
	write(w, v)
}

// start begins a job. Everything there is has to be asked for in so many words.
func start(w http.ResponseWriter, r *http.Request, jobs *redrive.Jobs, kind redrive.Kind) {
	var in RedriveRequest
	if !decode(w, r, &in) || !worded(w, "by", in.By) || (kind == redrive.Ignore && !worded(w, "reason", in.Reason)) {
		return
	}
	switch err := in.Select.Check(); {
	case err != nil:
		invalid(w, "select: "+err.Error())
		return
	case in.Select.Empty() != in.All:
		invalid(w, `want a selection, or "all": true for every open letter, and not both`)
		return
	case !(in.Rate >= 0 && in.Rate <= 1e6):
		invalid(w, "rate: want posts per second, or 0 for the subscription's own limit")
		return
	}
	v, err := jobs.Start(redrive.Request{Kind: kind, Subscription: in.Subscription, Select: in.Select, DryRun: in.DryRun, Rate: in.Rate, Reason: in.Reason, By: who(r, in.By)})
	switch {
	case errors.Is(err, redrive.ErrUnknown):
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: err.Error()})
	case err != nil:
		fail(w, err)
	default:
		write(w, v)
	}
}

// Letter is one dead letter of GET /deadletters.
type Letter struct {
	Place        string    `json:"place"` // partition and offset on the dead-letter topic
	Done         bool      `json:"done"`
	ID           string    `json:"id,omitempty"`
	Type         string    `json:"type,omitempty"`
	Key          string    `json:"key"`
	Reason       string    `json:"reason"`
	Status       int       `json:"status"`
	Error        string    `json:"error"`
	Attempts     int       `json:"attempts"`
	Redrives     int       `json:"redrives"`
	Topic        string    `json:"topic"`
	Partition    int       `json:"partition"`
	Offset       int64     `json:"offset"`
	FirstFailure time.Time `json:"first_failure"`
	LastFailure  time.Time `json:"last_failure"`
	Value        *string   `json:"value,omitempty"`
}

// Page is what GET /deadletters answers. Next goes into after for the next page;
// it is empty at the end.
type Page struct {
	Letters []Letter `json:"letters"`
	Next    string   `json:"next"`
	Expired int64    `json:"expired"` // at most this many were deleted by the topic's retention before anybody dealt with them
	Warning string   `json:"warning,omitempty"`

	bytes int
}

// Query is which letters a page has.
type Query struct {
	Select  deadletter.Selection
	Done    bool // those that are dealt with, too
	Payload bool
	Limit   int
	After   string // Next of the page before
}

var (
	errQuery = errors.New("want subscription, and if you like id, type, reason, status, key, since, until (RFC 3339), done=true, payload=true, limit (1 to 1000), after (the next of the page before)")
	ErrBusy  = errors.New("others are reading dead letters; try again")
)

func query(q url.Values) (Query, error) {
	chosen, err := selection(q)
	if err == nil {
		err = chosen.Check()
	}
	_, _, ok := after(q.Get("after"))
	limit, lerr := strconv.Atoi(or(q.Get("limit"), "100"))
	if err != nil || !ok || lerr != nil || limit < 1 || limit > 1000 {
		return Query{}, errQuery
	}
	return Query{Select: chosen, Done: q.Get("done") == "true", Payload: q.Get("payload") == "true", Limit: limit, After: q.Get("after")}, nil
}

// Reader reads pages of letters, a few at a time.
type Reader chan struct{}

// NewReader returns one; all who read letters share it.
func NewReader() Reader { return make(Reader, readers) }

// Enter takes one of the places of those who read; ok is false when there is none.
func (reading Reader) Enter() (leave func(), ok bool) {
	select {
	case reading <- struct{}{}:
		return func() { <-reading }, true
	default:
		return nil, false
	}
}

// ReadLetters fills a page, as far as it is shown.
func (c Config) ReadLetters(ctx context.Context, s *pump.Subscription, q Query) (*Page, error) {
	p, err := c.Letters.read(ctx, s, q)
	if err != nil {
		return p, err
	}
	for i := range p.Letters {
		p.Letters[i].Error = c.Said(p.Letters[i].Error)
	}
	return p, nil
}

func (reading Reader) read(ctx context.Context, s *pump.Subscription, q Query) (*Page, error) {
	partition, offset, ok := after(q.After)
	if !ok {
		return nil, errQuery
	}
	leave, ok := reading.Enter()
	if !ok {
		return nil, ErrBusy
	}
	defer leave()
	p := &Page{Letters: []Letter{}}
	return p, p.read(ctx, s, q, partition, offset)
}

func (c Config) list(w http.ResponseWriter, r *http.Request, subs func() []*pump.Subscription) {
	q, err := query(r.URL.Query())
	if err != nil {
		invalid(w, err.Error())
		return
	}
	if q.Payload && c.HidePayloads {
		refuse(http.StatusForbidden, "CONSOLE_PAYLOADS=hide: the bridge shows no payloads")(w, r)
		return
	}
	for _, s := range subs() {
		if s.Name() != r.URL.Query().Get("subscription") {
			continue
		}
		p, err := c.ReadLetters(r.Context(), s, q)
		switch {
		case errors.Is(err, ErrBusy):
			w.Header().Set("Retry-After", "1")
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusServiceUnavailable, Detail: err.Error()})
		case err != nil:
			fail(w, err)
		default:
			write(w, p)
		}
		return
	}
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: redrive.ErrUnknown.Error()})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// after reads the cursor: the place to go on from.
func after(s string) (partition int, offset int64, ok bool) {
	if s == "" {
		return 0, 0, true
	}
	a, b, found := strings.Cut(s, "/")
	partition, err := strconv.Atoi(a)
	offset, err2 := strconv.ParseInt(b, 10, 64)
	return partition, offset, found && err == nil && err2 == nil && partition >= 0 && offset >= 0
}

func selection(q url.Values) (deadletter.Selection, error) {
	s := deadletter.Selection{IDs: q["id"], Types: q["type"], Reasons: q["reason"], Keys: q["key"]}
	for _, v := range q["status"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return s, err
		}
		s.Statuses = append(s.Statuses, n)
	}
	for name, to := range map[string]*time.Time{"since": &s.Since, "until": &s.Until} {
		if v := q.Get(name); v != "" {
			at, err := time.Parse(time.RFC3339, v)
			if err != nil {
				return s, err
			}
			*to = at
		}
	}
	return s, nil
}

var errPage = errors.New("the page is full")

// read fills the page, partition by partition, from a place on.
func (p *Page) read(ctx context.Context, s *pump.Subscription, q Query, partition int, offset int64) error {
	box := s.Mailbox()
	positions, err := deadletter.Positions(ctx, box.Client, box.Group, box.Topic, box.Keys)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readTime, errPage)
	defer cancel()
	for _, at := range positions {
		p.Expired += at.Expired()
		if at.Wrong != nil {
			p.Warning = "letters are shown as open that may not be: " + at.Wrong.Error()
		}
	}
	for _, at := range positions[min(partition, len(positions)):] {
		from := at.First
		if !q.Done {
			from = at.From()
		}
		if at.Partition == partition {
			from = max(from, offset)
		}
		next, err := deadletter.Scan(ctx, box.Client, deadletter.Range{Topic: box.Topic, Partition: at.Partition, From: from, To: at.End}, func(rec fetch.Record) error {
			l, ok := deadletter.FromRecord(at.Partition, rec)
			if !ok || l.Letter.Subscription != s.Name() || !q.Select.Match(l) {
				return nil
			}
			if done := at.Done(rec.Offset); q.Done || !done {
				return p.add(l, done, q)
			}
			return nil
		})
		if errors.Is(err, errPage) {
			p.Next = fmt.Sprintf("%d/%d", at.Partition, next)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Page) add(l deadletter.Stored, done bool, q Query) error {
	out := Letter{Place: l.Place(), Done: done, ID: l.ID, Type: l.Type, Key: string(l.Record.Key), Reason: l.Letter.Reason, Status: l.Letter.Status, Error: l.Letter.Error,
		Attempts: l.Letter.Attempts, Redrives: l.Letter.Redrives, Topic: l.Letter.Topic, Partition: l.Letter.Partition, Offset: l.Letter.Offset,
		FirstFailure: l.Letter.First, LastFailure: l.Letter.Last}
	if q.Payload {
		value := string(l.Record.Value)
		out.Value = &value
		p.bytes += len(value)
	}
	p.Letters = append(p.Letters, out)
	if len(p.Letters) == q.Limit || p.bytes >= pageBytes {
		return errPage
	}
	return nil
}
