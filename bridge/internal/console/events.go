package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	maxStreams = 64
	heartbeat  = 15 * time.Second
	gather     = 250 * time.Millisecond // between two messages
	atOnce     = 100                    // steps in a message; of more only the newest
	patience   = 5 * time.Second        // for a client to take a message
)

// events sends the steps of events as they happen, as server-sent events:
//
//	event: steps, data: [{step}, ...]   id: BOOT-NUMBER of the last one
//	event: gap, data: {"from": NUMBER}  what came before is not known any more, or was too much
//
// A client that is too slow is cut off and resumes at its last id.
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	ctx, leave, ok := c.streams.join(r.Context())
	if !ok {
		httpd.Busy(w)
		return
	}
	defer leave()
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // that of a request would end the answer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for a whole page
	wake, unfollow := c.cfg.Journal.Follow()
	defer unfollow()
	s := stream{w: w, ctl: ctl, journal: c.cfg.Journal}
	if s.resume(r.Header.Get("Last-Event-ID"), r.URL.Query().Get("after")) != nil {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if s.send("event: tick\ndata: {}\n\n") != nil {
				return
			}
		case <-wake:
			if s.steps() != nil || retry.Pause(ctx, gather) != nil {
				return
			}
		}
	}
}

// stream is one client.
type stream struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	journal *journal.Journal
	last    int64
	buffer  []journal.Step
}

func (s *stream) send(format string, args ...any) error {
	_ = s.ctl.SetWriteDeadline(time.Now().Add(patience)) // without one the server's own limit holds
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.ctl.Flush()
}

// resume begins behind the id of a client that was here before.
func (s *stream) resume(header, query string) error {
	s.last = s.journal.Last()
	id := header
	if id == "" {
		id = query
	}
	boot, number, _ := strings.Cut(id, "-")
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case id == "":
		return s.send("retry: 2000\n: taskwire console\n\n")
	case boot != s.journal.Boot || err != nil || n > s.last:
		return s.send("retry: 2000\nid: %s-%d\nevent: gap\ndata: {\"from\":%d}\n\n", s.journal.Boot, s.last, s.last)
	}
	s.last = n
	if err := s.send("retry: 2000\n: taskwire console\n\n"); err != nil {
		return err
	}
	return s.steps()
}

// steps sends what is new.
func (s *stream) steps() error {
	if newest := s.journal.Last(); newest-s.last > atOnce {
		s.last = newest - atOnce
		if err := s.send("event: gap\ndata: {\"from\":%d}\n\n", s.last); err != nil {
			return err
		}
	}
	s.buffer, _ = s.journal.After(s.last, atOnce, s.buffer[:0])
	if len(s.buffer) == 0 {
		return nil
	}
	text, err := json.Marshal(s.buffer)
	if err != nil {
		return err
	}
	s.last = s.buffer[len(s.buffer)-1].ID
	return s.send("id: %s-%d\nevent: steps\ndata: %s\n\n", s.journal.Boot, s.last, text)
}

// streams are the clients. A drain would wait for them for ever, so they end when it begins.
type streams struct {
	mu      sync.Mutex
	next    int
	leave   map[int]context.CancelFunc
	stopped bool
}

func newStreams() *streams { return &streams{leave: map[int]context.CancelFunc{}} }

func (t *streams) join(parent context.Context) (ctx context.Context, leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped || len(t.leave) >= maxStreams {
		return nil, nil, false
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

func (t *streams) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, leave := range t.leave {
		leave()
	}
}
