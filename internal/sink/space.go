package sink

import (
	"net/http"

	"golang.org/x/sync/semaphore"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/trace"
)

// spaceBytes bounds the memory of decoded events, in all requests together. Per
// byte of its body, a batch of the smallest events takes about 40 bytes, one
// event about 8.
const (
	spaceBytes = 80 << 20
	perBatch   = 40
	perEvent   = 8
)

// space is what decoded events may take. It is held while the service works and
// never while a client is waited for, so that requests take turns quickly.
type space struct{ sem *semaphore.Weighted }

func newSpace() space { return space{semaphore.NewWeighted(spaceBytes)} }

// receive decodes the body and passes the n events in it to recv.
func (s space) receive(r *http.Request, body []byte, recv Receiver) (results []Result, n int, err error) {
	need := int64(len(body)) * perEvent
	if isBatch(r) {
		need = int64(len(body)) * perBatch
	}
	need = min(need, spaceBytes)
	if err := s.sem.Acquire(r.Context(), need); err != nil {
		return nil, 0, err // the sender is gone
	}
	defer s.sem.Release(need)
	events, err := event.FromHTTP(r.Header, body)
	if err != nil {
		return nil, 0, err
	}
	if trace.Recording(r.Context()) {
		trace.Received(r.Context(), described(events))
	}
	return recv(r.Context(), events), len(events), nil
}

// described are the events as a span shows them.
func described(events []event.Event) []trace.Event {
	out := make([]trace.Event, len(events))
	for i, e := range events {
		parent, _ := event.Attribute(e, event.TraceParent)
		state, _ := event.Attribute(e, event.TraceState)
		out[i] = trace.Event{Parent: parent, State: state, ID: e.ID(), Source: e.Source(), Type: e.Type(), Subject: e.Subject()}
	}
	return out
}
