package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
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
	maxAnswers   = 256 // at a time
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
	var page []ledger.Place
	var bytes int64
	more := false
	err := s.find(r.Context(), after, ledger.Filter{TaskID: q.Get("task_id"), Type: q.Get("type")}, func(p ledger.Place, _ []byte) bool {
		if more = int64(len(page)) == limit || len(page) > 0 && bytes+p.Length > maxPage; more {
			return false
		}
		page, bytes = append(page, p), bytes+p.Length
		return true
	})
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	s.answers.Stream(w, r, func(_ context.Context, out *bufio.Writer) error {
		return s.writePage(out, page, more)
	})
}

// writePage copies the lines from the log: a page that nobody reads takes no memory.
func (s *Service) writePage(out *bufio.Writer, page []ledger.Place, more bool) error {
	_, _ = out.WriteString(`{"entries":[`) // Flush returns the first error
	for i, p := range page {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		if _, err := out.ReadFrom(s.ledger.Text(p)); err != nil {
			return err
		}
	}
	next := "null"
	if more {
		next = strconv.FormatInt(page[len(page)-1].Seq, 10)
	}
	_, err := out.WriteString(`],"next_after":` + next + "}\n")
	return err
}

func (s *Service) entry(w http.ResponseWriter, r *http.Request) {
	seq, ok := number(r.PathValue("seq"), 0, 1, 1<<53)
	if !ok {
		notFound(w)
		return
	}
	place, err := s.place(r.Context(), seq)
	if errors.Is(err, ledger.ErrNotFound) {
		notFound(w)
		return
	}
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	s.answers.Stream(w, r, func(_ context.Context, out *bufio.Writer) error {
		_, err := out.ReadFrom(s.ledger.Text(place))
		_ = out.WriteByte('\n')
		return err
	})
}

// place waits for its turn, since it reads up to 64 lines.
func (s *Service) place(ctx context.Context, seq int64) (ledger.Place, error) {
	if err := s.turn(ctx); err != nil {
		return ledger.Place{}, err
	}
	defer s.turnOver()
	return s.ledger.Place(seq)
}

// The answer of GET /tasks/{id}/history is
//
//	{"task_id":..., "versions":[...], "irregular":n, "truncated":bool}
//
// where irregular counts the versions with a flag, and truncated means that there
// are more than 10,000. version is an item of versions without its data.
type version struct {
	Seq        int64     `json:"seq"`
	Version    int64     `json:"version,omitempty"`
	Flag       string    `json:"flag,omitempty"` // "gap": versions before this one are missing; "step_back": a higher one came before
	EventID    string    `json:"event_id"`
	EventType  string    `json:"event_type"`
	Source     string    `json:"source"`
	Actor      any       `json:"actor,omitempty"`
	OccurredAt string    `json:"occurred_at,omitempty"`
	AuditedAt  time.Time `json:"audited_at"`
}

// past is how far a history has been read.
type past struct {
	task      string
	last      map[uint64]int64 // by hash of the source: each numbers its own versions
	seed      maphash.Seed
	after     int64
	count     int
	irregular int
	done      bool
	truncated bool
}

// item is a version as it will be written: its head, and where its data stands.
type item struct {
	head []byte
	data ledger.Place
}

func (s *Service) history(w http.ResponseWriter, r *http.Request) {
	p := &past{task: r.PathValue("id"), last: map[uint64]int64{}, seed: maphash.MakeSeed()}
	items, err := s.more(r.Context(), p)
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	if len(items) == 0 {
		notFound(w)
		return
	}
	s.answers.Stream(w, r, func(ctx context.Context, out *bufio.Writer) error {
		err := s.writeHistory(ctx, out, p, items)
		if err != nil && ctx.Err() == nil {
			s.log.Error("history cut short", "err", err)
		}
		return err
	})
}

func (s *Service) writeHistory(ctx context.Context, out *bufio.Writer, p *past, items []item) (err error) {
	task, err := json.Marshal(p.task)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `{"task_id":%s,"versions":[`, task)
	for first := true; len(items) > 0; {
		for _, i := range items {
			if !first {
				_ = out.WriteByte(',')
			}
			first = false
			if err := s.writeItem(out, i); err != nil {
				return err
			}
		}
		if items, err = s.more(ctx, p); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, `],"irregular":%d,"truncated":%t}`+"\n", p.irregular, p.truncated)
	return err
}

func (s *Service) writeItem(out *bufio.Writer, i item) error {
	if i.data.Length == 0 {
		_, err := out.Write(i.head)
		return err
	}
	_, _ = out.Write(i.head[:len(i.head)-1]) // without its brace
	_, _ = out.WriteString(`,"data":`)
	if _, err := out.ReadFrom(s.ledger.Text(i.data)); err != nil {
		return err
	}
	return out.WriteByte('}')
}

// more reads the next few versions. A history is read in steps, so that what is
// held while a client reads does not grow with its length, and nobody who reads
// slowly keeps others from reading the log.
func (s *Service) more(ctx context.Context, p *past) (items []item, err error) {
	if p.done {
		return nil, nil
	}
	const most, mostRead = 32 << 10, 4 << 20 // bytes of heads, and of lines
	held, read, cut := 0, int64(0), false
	var bad error
	err = s.find(ctx, p.after, ledger.Filter{TaskID: p.task}, func(at ledger.Place, line []byte) bool {
		if p.truncated = p.count == maxHistory; p.truncated {
			return false
		}
		if cut = held >= most || read >= mostRead; cut {
			return false
		}
		var i item
		if i, bad = p.item(at, line); bad != nil {
			return false
		}
		items, held, read = append(items, i), held+len(i.head)+64, read+at.Length
		p.after, p.count = at.Seq, p.count+1
		return true
	})
	p.done = !cut
	return items, errors.Join(err, bad)
}

func (p *past) item(at ledger.Place, line []byte) (item, error) {
	e, from, to, err := ledger.ParseHead(line)
	if err != nil {
		return item{}, err
	}
	v := version{Seq: e.Seq, EventID: e.ID, EventType: e.Type, Source: e.Source, Actor: e.Attribute("actor"), OccurredAt: e.Time, AuditedAt: e.AuditedAt}
	if n, ok := e.TaskVersion(); ok {
		v.Version = n
		source := maphash.String(p.seed, e.Source)
		switch was := p.last[source]; {
		case n <= was:
			v.Flag = "step_back"
		case n > was+1:
			v.Flag = "gap"
		}
		p.last[source] = max(p.last[source], n)
	}
	if v.Flag != "" {
		p.irregular++
	}
	head, err := json.Marshal(v)
	return item{head, ledger.Place{Offset: at.Offset + int64(from), Length: int64(to - from)}}, err
}

// find waits for its turn to read the log.
func (s *Service) find(ctx context.Context, after int64, f ledger.Filter, yield func(ledger.Place, []byte) bool) error {
	if err := s.turn(ctx); err != nil {
		return err
	}
	defer s.turnOver()
	return s.ledger.Find(ctx, after, f, yield)
}

// turn limits the readers: many at once would take disk, processors and memory
// from the appends. Nothing is written to a client during a turn.
func (s *Service) turn(ctx context.Context) error {
	select {
	case s.scans <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) turnOver() { <-s.scans }

func (s *Service) queryFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.log.Error("query failed", "err", err)
	}
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusInternalServerError, Detail: "the log could not be read"})
}

func notFound(w http.ResponseWriter) {
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "not in the log"})
}

func number(s string, def, low, high int64) (int64, bool) {
	if s == "" {
		return def, def >= low
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= low && n <= high
}
