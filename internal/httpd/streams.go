package httpd

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// MaxStreams is how many clients follow at a time.
const MaxStreams = 64

// streamPatience is how long a client may take for one message.
const streamPatience = 5 * time.Second

// Streams are clients whose answers have no end, such as server-sent events. A drain
// would wait for them for ever, so they end when it begins. The zero value is ready.
type Streams struct {
	mu      sync.Mutex
	next    int
	leave   map[int]context.CancelFunc
	stopped bool
}

// Join returns a context that ends with parent or Stop. ok is false when there are
// MaxStreams already, or after Stop; otherwise the caller calls leave when it is done.
func (s *Streams) Join(parent context.Context) (ctx context.Context, leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || len(s.leave) >= MaxStreams {
		return nil, nil, false
	}
	if s.leave == nil {
		s.leave = map[int]context.CancelFunc{}
	}
	ctx, cancel := context.WithCancel(parent)
	me := s.next
	s.next++
	s.leave[me] = cancel
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leave, me)
	}, true
}

// Stop ends all of them, and lets no other join.
func (s *Streams) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, cancel := range s.leave {
		cancel()
	}
}

// EventStream is the answer to one of them. Each write has a deadline of its own, so
// that a client that does not read is cut off.
type EventStream struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

// StartEventStream sets the headers of server-sent events.
func StartEventStream(w http.ResponseWriter) EventStream {
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // that of a request would end the answer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for a whole page
	return EventStream{w, ctl}
}

// Write implements io.Writer.
func (s EventStream) Write(b []byte) (int, error) {
	_ = s.ctl.SetWriteDeadline(time.Now().Add(streamPatience)) // without one the server's own limit holds
	return s.w.Write(b)
}

// Flush sends what was written.
func (s EventStream) Flush() error { return s.ctl.Flush() }
