package app

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/httpd"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxPage      = 8 << 20 // bytes; a page has at least one entry
	maxAnswers   = 256     // at a time
	maxScans     = 2       // readers of the log at a time

	// A step is what an answer holds in memory and what it reads during one turn.
	// Longer texts are not held but copied from the log once more.
	stepHeld = 32 << 10
	stepRead = 4 << 20
	textHeld = 4 << 10
)

// entries answers {"entries":[...],"next_after":n}: lines of the log, byte for
// byte, and the value of after for the next page, null at the end of the log.
func (s *Service) entries(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, ok1 := number(q.Get("after"), 0, 0, 1<<53)
	limit, ok2 := number(q.Get("limit"), defaultLimit, 1, maxLimit)
	if !ok1 || !ok2 {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusBadRequest, Detail: "after must be the number of an entry, limit must be 1 to 1000"})
		return
	}
	page := &walk{filter: filterOf(r), after: after, left: limit, room: maxPage}
	items, err := s.step(r.Context(), page, line)
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	s.answers.Stream(w, r, func(ctx context.Context, out *bufio.Writer) error {
		_, _ = out.WriteString(`{"entries":[`) // Flush returns the first error
		if err := s.write(ctx, out, page, items, line); err != nil {
			return err
		}
		next := "null"
		if page.cut || page.after < s.ledger.Len() {
			next = strconv.FormatInt(page.after, 10)
		}
		_, err := out.WriteString(`],"next_after":` + next + "}\n")
		return err
	})
}

func filterOf(r *http.Request) ledger.Filter {
	q := r.URL.Query()
	return ledger.Filter{TaskID: q.Get("task_id"), Type: q.Get("type"), Actor: q.Get("actor")}
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
	s.answers.Stream(w, r, func(ctx context.Context, out *bufio.Writer) error {
		return s.writeItem(ctx, out, item{rest: place, end: "\n"})
	})
}

// place waits for its turn, since it reads up to 64 lines.
func (s *Service) place(ctx context.Context, seq int64) (ledger.Place, error) {
	if err := s.turn(ctx); err != nil {
		return ledger.Place{}, err
	}
	defer s.turnOver()
	return s.ledger.Place(ctx, seq)
}

// A walk goes over the entries that match, a step at a time, so that what is held
// while a client reads does not grow with the answer, and nobody who reads slowly
// keeps others from reading the log.
type walk struct {
	filter ledger.Filter
	after  int64 // the last entry that was taken, or up to which nothing else matches
	left   int64 // entries to take
	room   int64 // bytes to take; the first entry always fits
	taken  int64
	done   bool // no step follows
	cut    bool // because left or room is over
}

// An item is one entry in an answer: text that is held, then text to be copied from the log.
type item struct {
	held []byte
	rest ledger.Place
	end  string
}

// line is the entry as it is.
func line(at ledger.Place, text []byte) (item, error) {
	if len(text) > textHeld {
		return item{rest: at}, nil
	}
	return item{held: bytes.Clone(text)}, nil
}

// step takes the next entries and makes items of them.
func (s *Service) step(ctx context.Context, w *walk, of func(ledger.Place, []byte) (item, error)) (items []item, err error) {
	if w.done {
		return nil, nil
	}
	var held, read int64
	var full bool
	var bad error
	through, err := s.find(ctx, w.after, w.filter, func(at ledger.Place, text []byte) bool {
		w.cut = w.left == 0 || w.taken > 0 && at.Length > w.room
		full = held >= stepHeld || read >= stepRead
		if w.cut || full {
			return false
		}
		var i item
		if i, bad = of(at, text); bad != nil {
			return false
		}
		items = append(items, i)
		held, read = held+int64(len(i.held))+64, read+at.Length
		w.after, w.taken, w.left, w.room = at.Seq, w.taken+1, w.left-1, w.room-at.Length
		return true
	})
	if err == nil {
		err = bad
	}
	w.done = w.cut || !full
	if w.done && !w.cut {
		w.after = through
	}
	return items, err
}

// write writes the items, those of the following steps too, with commas between them.
func (s *Service) write(ctx context.Context, out *bufio.Writer, w *walk, items []item, of func(ledger.Place, []byte) (item, error)) (err error) {
	for first := true; len(items) > 0; {
		for _, i := range items {
			if !first {
				_ = out.WriteByte(',')
			}
			first = false
			if err := s.writeItem(ctx, out, i); err != nil {
				return err
			}
		}
		if items, err = s.step(ctx, w, of); err != nil {
			if ctx.Err() == nil {
				s.log.Error("answer cut short", "err", err)
			}
			return err
		}
	}
	return nil
}

func (s *Service) writeItem(ctx context.Context, out *bufio.Writer, i item) error {
	_, _ = out.Write(i.held)
	if i.rest.Length > 0 {
		n, err := out.ReadFrom(s.ledger.Text(ctx, i.rest))
		if err == nil && n != i.rest.Length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	_, err := out.WriteString(i.end)
	return err
}

// find waits for its turn to read the log.
func (s *Service) find(ctx context.Context, after int64, f ledger.Filter, yield func(ledger.Place, []byte) bool) (int64, error) {
	if err := s.turn(ctx); err != nil {
		return 0, err
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
