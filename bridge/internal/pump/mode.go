package pump

import (
	"net/http"

	"github.com/taskwire/taskwire/internal/event"
)

// Mode is the form in which events are posted.
type Mode string

// Modes.
const (
	Structured Mode = "structured" // the body is the event
	Binary     Mode = "binary"     // the body is its data, headers are its attributes
)

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
