package app

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/httpd"
)

const (
	maxTails      = 64 // at a time
	tailHeartbeat = 15 * time.Second
	tailPatience  = 5 * time.Second // for a client to take what was written
)

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
	ctx, leave, ok := s.tails.join(r.Context())
	if !ok {
		httpd.Busy(w)
		return
	}
	defer leave()
	client := follower{w, http.NewResponseController(w)}
	_ = client.ctl.SetReadDeadline(time.Time{}) // that of a request would end the answer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for a whole page
	s.follow(ctx, bufio.NewWriterSize(client, stepHeld), client.ctl, &walk{filter: filterOf(r), after: after, left: 1 << 62, room: 1 << 62})
}

// follow returns when the client is gone or too slow, or the service stops.
func (s *Service) follow(ctx context.Context, out *bufio.Writer, ctl *http.ResponseController, w *walk) {
	_, _ = out.WriteString(": taskwire audit log\n\n") // tells the client at once that it is connected
	for {
		if out.Flush() != nil || ctl.Flush() != nil {
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

// follower gives each write a deadline of its own.
type follower struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

func (f follower) Write(b []byte) (int, error) {
	_ = f.ctl.SetWriteDeadline(time.Now().Add(tailPatience)) // without one the server's own limit holds
	return f.w.Write(b)
}

// tails are the clients that follow the log. A drain would wait for them for ever,
// so they end when it begins.
type tails struct {
	mu      sync.Mutex
	next    int
	leave   map[int]context.CancelFunc
	stopped bool
}

// join returns a context that ends with the request or the service.
func (t *tails) join(parent context.Context) (ctx context.Context, leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped || len(t.leave) >= maxTails {
		return nil, nil, false
	}
	if t.leave == nil {
		t.leave = map[int]context.CancelFunc{}
	}
	ctx, cancel := context.WithCancel(parent)
	me := t.next
	t.next++
	t.leave[me] = cancel
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.leave, me)
	}, true
}

func (t *tails) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, cancel := range t.leave {
		cancel()
	}
}
