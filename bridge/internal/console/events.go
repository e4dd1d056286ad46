package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	heartbeat = 15 * time.Second
	gather    = 250 * time.Millisecond // between two messages
	atOnce    = 100                    // steps in a message; of more only the newest
)

// events sends the steps of events as they happen, as server-sent events:
//
//	event: steps, data: [{step}, ...]   id: BOOT-NUMBER of the last one
//	event: gap, data: {"from": NUMBER}  what came before is not known any more, or was too much
//
// A client that is too slow is cut off and resumes at its last id; one that has signed
// out, or whose token was revoked, is cut off for good.
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	ctx, leave, ok := c.streams.Join(r.Context())
	if !ok {
		httpd.Busy(w)
		return
	}
	defer leave()
	wake, unfollow := c.cfg.Journal.Follow()
	defer unfollow()
	s := stream{out: httpd.StartEventStream(w), journal: c.cfg.Journal, shown: c.shown}
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
			if !c.cfg.Admin.Reader(r) || s.send("event: tick\ndata: {}\n\n") != nil {
				return
			}
		case <-wake:
			if !c.cfg.Admin.Reader(r) || s.steps() != nil || retry.Pause(ctx, gather) != nil {
				return
			}
		}
	}
}

// stream is one client.
type stream struct {
	out     httpd.EventStream
	journal *journal.Journal
	shown   func(*journal.Step)
	last    int64
	buffer  []journal.Step
}

func (s *stream) send(format string, args ...any) error {
	if _, err := fmt.Fprintf(s.out, format, args...); err != nil {
		return err
	}
	return s.out.Flush()
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
	for i := range s.buffer {
		s.shown(&s.buffer[i])
	}
	text, err := json.Marshal(s.buffer)
	if err != nil {
		return err
	}
	s.last = s.buffer[len(s.buffer)-1].ID
	return s.send("id: %s-%d\nevent: steps\ndata: %s\n\n", s.journal.Boot, s.last, text)
}
