package app

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/httpd"
)

const tailHeartbeat = 15 * time.Second

// tail answers with server-sent events: each new entry as it becomes durable, its
// number as the id and its line as the data. Last-Event-ID or after=N continues
// behind that entry; without either it begins with the next one. The filters of
// entries apply.
//
// A client is told nothing out of turn and loses nothing while it is connected:
// each goes through the log at its own pace, so what is held for it is one step.
// One that does not read is cut off and can continue from its last id.
func (s *Service) tail(w http.ResponseWriter, r *http.Request) {
	from := r.Header.Get("Last-Event-ID")
	if from == "" {
		from = r.URL.Query().Get("after")
	}
	after, ok := number(from, s.ledger.Len(), 0, 1<<53)
	if !ok {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusBadRequest, Detail: "Last-Event-ID and after must be the number of an entry"})
		return
	}
	ctx, leave, ok := s.tails.Join(r.Context())
	if !ok {
		httpd.Busy(w)
		return
	}
	defer leave()
	w.Header().Set("Cache-Control", "no-store")
	s.follow(ctx, httpd.StartEventStream(w), &walk{filter: filterOf(r), after: after, left: 1 << 62, room: 1 << 62})
}

// follow returns when the client is gone or too slow, or the service stops.
func (s *Service) follow(ctx context.Context, client httpd.EventStream, w *walk) {
	out := bufio.NewWriterSize(client, stepHeld)
	_, _ = out.WriteString(": taskwire audit log\n\n") // tells the client at once that it is connected
	for {
		if out.Flush() != nil || client.Flush() != nil {
			return
		}
		w.done = false
		items, err := s.step(ctx, w, serverSent)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("tail ended", "err", err)
			}
			return
		}
		for _, i := range items {
			if s.writeItem(ctx, out, i) != nil {
				return
			}
		}
		if len(items) > 0 || w.after < s.ledger.Len() {
			continue
		}
		beat, cancel := context.WithTimeout(ctx, tailHeartbeat)
		err = s.ledger.Await(beat, w.after)
		cancel()
		switch {
		case ctx.Err() != nil, err != nil && !errors.Is(err, context.DeadlineExceeded):
			return
		case err != nil:
			_, _ = out.WriteString(":\n\n")
		}
	}
}

// serverSent is the entry as an event: a line has no line feed inside.
func serverSent(at ledger.Place, text []byte) (item, error) {
	head := append(strconv.AppendInt([]byte("id: "), at.Seq, 10), "\ndata: "...)
	if len(text) > textHeld {
		return item{held: head, rest: at, end: "\n\n"}, nil
	}
	return item{held: append(head, text...), end: "\n\n"}, nil
}
