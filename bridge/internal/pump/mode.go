package pump

import (
	"net/http"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/event"
)

// Mode is the form in which events are posted.
type Mode string

// Modes.
const (
	Structured Mode = "structured" // the body is the event
	Binary     Mode = "binary"     // the body is its data, headers are its attributes
	Batched    Mode = "batch"      // the body is an array of events; see post
	Auto       Mode = "auto"       // structured or, while the sink says that it takes batches, several that are ready as a batch
)

// Batch limits one batch. There is no minimum: what is ready goes.
type Batch struct {
	Size  int // events
	Bytes int // of the body; a longer event goes alone
}

// batches reports whether several events may go into one post now.
func (s *Subscription) batches() bool {
	return s.cfg.Mode == Batched || s.cfg.Mode == Auto && s.sink.TakesBatches()
}

// batch is how much goes into one post.
func (s *Subscription) batch() (size, bytes int) {
	if !s.batches() {
		return 1, 0
	}
	return s.cfg.Batch.Size, s.cfg.Batch.Bytes
}

// postCost is what a post in flight holds in memory beside its events: the body
// of a batch is a copy, and its answer is kept until it is read whole.
func (s *Subscription) postCost() int {
	if !s.batches() {
		return 0
	}
	return s.cfg.Batch.Bytes + s.cfg.Batch.Size*deliver.AnswerPerEvent
}

// mostBytes is how long an event may be in the form in which it is posted.
func (c Config) mostBytes() int {
	if c.Mode == Batched {
		return event.MaxBytes - len("[]")
	}
	return event.MaxBytes
}

// shape gives it what is posted: e in the form of mode. as is the structured form
// of e in which it came, which is passed on as it is; nil when it came in another.
func (it *item) shape(mode Mode, e event.Event, as []byte) (err error) {
	it.contentType, it.header, it.body = event.HTTPContentType, nil, as
	switch {
	case mode == Binary:
		it.contentType = "" // among the headers, if the event has one
		it.header, it.body, err = event.BinaryHTTP(e)
		it.size += headerSize(it.header) + len(it.body)
	case as == nil:
		it.body, err = event.Append(nil, e)
		it.size += len(it.body)
	}
	return err
}

// headerSize is about what the headers of an event take in memory.
func headerSize(h http.Header) int {
	size := 0
	for name, values := range h {
		size += 64 + len(name) + len(values[0])
	}
	return size
}
