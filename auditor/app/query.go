package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/httpd"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxPage      = 8 << 20 // bytes; a page has at least one entry
	maxHistory   = 10_000
)

// entries answers {"entries":[...],"next_after":n}: lines of the log, byte for
// byte, and the value of after for the next page, null at the end.
func (s *Service) entries(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, ok1 := number(q.Get("after"), 0, 0, 1<<53)
	limit, ok2 := number(q.Get("limit"), defaultLimit, 1, maxLimit)
	if !ok1 || !ok2 {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusBadRequest, Detail: "after must be the number of an entry, limit must be 1 to 1000"})
		return
	}
	body := []byte(`{"entries":[`)
	next := "null"
	var count, last int64
	err := s.find(r.Context(), after, ledger.Filter{TaskID: q.Get("task_id"), Type: q.Get("type")}, func(seq int64, line []byte) bool {
		if count == limit || count > 0 && len(body)+len(line) > maxPage {
			next = strconv.FormatInt(last, 10)
			return false
		}
		if count > 0 {
			body = append(body, ',')
		}
		body, last = append(body, line...), seq
		count++
		return true
	})
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	body = append(body, `],"next_after":`...)
	send(w, append(body, next+"}"...))
}

func (s *Service) entry(w http.ResponseWriter, r *http.Request) {
	seq, ok := number(r.PathValue("seq"), 0, 1, 1<<53)
	if !ok {
		notFound(w)
		return
	}
	line, err := s.ledger.Line(seq)
	if errors.Is(err, ledger.ErrNotFound) {
		notFound(w)
		return
	}
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	send(w, line)
}

// history is the answer of GET /tasks/{id}/history.
type history struct {
	TaskID    string    `json:"task_id"`
	Versions  []version `json:"versions"`
	Irregular int       `json:"irregular"` // how many versions carry a flag
	Truncated bool      `json:"truncated"` // there are more than 10,000
}

type version struct {
	Seq        int64           `json:"seq"`
	Version    int64           `json:"version,omitempty"`
	Flag       string          `json:"flag,omitempty"` // "gap": versions before this one are missing; "step_back": a higher one came before
	EventID    string          `json:"event_id"`
	EventType  string          `json:"event_type"`
	Source     string          `json:"source"`
	Actor      any             `json:"actor,omitempty"`
	OccurredAt string          `json:"occurred_at,omitempty"`
	AuditedAt  time.Time       `json:"audited_at"`
	Data       json.RawMessage `json:"data,omitempty"`
}

func (s *Service) history(w http.ResponseWriter, r *http.Request) {
	h := history{TaskID: r.PathValue("id"), Versions: []version{}}
	last := map[string]int64{} // by source: each source numbers its own versions
	var bad error
	err := s.find(r.Context(), 0, ledger.Filter{TaskID: h.TaskID}, func(_ int64, line []byte) bool {
		e, err := ledger.ParseLine(line)
		if h.Truncated = len(h.Versions) == maxHistory; err != nil || h.Truncated {
			bad = err
			return false
		}
		v := versionOf(e, last)
		if v.Flag != "" {
			h.Irregular++
		}
		h.Versions = append(h.Versions, v)
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		s.queryFailed(w, r, err)
		return
	}
	if len(h.Versions) == 0 {
		notFound(w)
		return
	}
	reply(w, h)
}

func versionOf(e ledger.Entry, last map[string]int64) version {
	v := version{Seq: e.Seq, EventID: e.ID, EventType: e.Type, Source: e.Source, Actor: e.Attribute("actor"), OccurredAt: e.Time, AuditedAt: e.AuditedAt}
	if json.Valid(e.Data) {
		v.Data = e.Data
	}
	n, ok := e.TaskVersion()
	if !ok {
		return v
	}
	v.Version = n
	switch was := last[e.Source]; {
	case n <= was:
		v.Flag = "step_back"
	case n > was+1:
		v.Flag = "gap"
	}
	last[e.Source] = max(last[e.Source], n)
	return v
}

// find waits for its turn to read the log: many readers at once would take disk
// and processors from the appends.
func (s *Service) find(ctx context.Context, after int64, f ledger.Filter, yield func(int64, []byte) bool) error {
	select {
	case s.scans <- struct{}{}:
		defer func() { <-s.scans }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.ledger.Find(ctx, after, f, yield)
}

func (s *Service) queryFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.log.Error("query failed", "err", err)
	}
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusInternalServerError, Detail: "the log could not be read"})
}

func notFound(w http.ResponseWriter) {
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "not in the log"})
}

func reply(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of strings, numbers and valid JSON
	}
	send(w, body)
}

func send(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // a client that disconnected can ask again
}

func number(s string, def, low, high int64) (int64, bool) {
	if s == "" {
		return def, def >= low
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= low && n <= high
}
