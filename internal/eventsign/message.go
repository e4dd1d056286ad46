// Package eventsign is the word of an event's producer: an Ed25519 signature over
// everything that the event says, carried as one of its attributes. Whoever stands
// between the producer and the audit log, a Kafka cluster or a bridge, can then
// neither change an event nor invent one.
//
// docs/event-signatures.md defines the bytes for verifiers in other languages.
package eventsign

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/taskwire/taskwire/internal/event"
)

// Attribute is the name of the extension attribute with the signature.
const Attribute = "producersignature"

// domain keeps a signature of an event from being one of anything else.
const domain = "taskwire event signature v1\n"

// attribute is a context attribute and its canonical text.
type attribute struct{ name, text string }

// message is what is signed: the domain, then the number of attributes, each name
// and each text, in the order of the names, and the data. Every number is 4 bytes,
// the highest first, and stands before what it counts, so that no two events share
// their bytes. attrs is sorted.
func message(attrs []attribute, data []byte) []byte {
	size := len(domain) + 8 + len(data)
	for _, a := range attrs {
		size += 8 + len(a.name) + len(a.text)
	}
	slices.SortFunc(attrs, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	b := append(make([]byte, 0, size), domain...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(attrs)))
	for _, a := range attrs {
		b = appendCounted(b, a.name)
		b = appendCounted(b, a.text)
	}
	return appendCounted(b, data)
}

func appendCounted[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// Message returns the bytes that the signature of e covers: all attributes but the
// signature, and the data. They do not depend on the form e travelled in.
func Message(e event.Event) []byte {
	names := event.Attributes(e)
	attrs := make([]attribute, 0, len(names))
	for _, name := range names {
		if text, ok := event.Attribute(e, name); ok && name != Attribute {
			attrs = append(attrs, attribute{name, text})
		}
	}
	data := e.DataEncoded
	if event.JSONType(e) {
		// Data without a content type may be JSON and need not be.
		if line := oneLine(data); !bytes.Equal(line, data) && jsontext.Value(data).IsValid() {
			data = line
		}
	}
	return message(attrs, data)
}

// oneLine is JSON data as a line of the audit log has it: without the white space
// around it, and with a space for each line feed and carriage return, which in JSON
// stand between tokens only.
func oneLine(data []byte) []byte {
	data = bytes.Trim(data, " \t\r\n")
	if !bytes.ContainsAny(data, "\r\n") {
		return data
	}
	return bytes.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return ' '
		}
		return r
	}, data)
}

// Reason says what is wrong with a signature; it is a label of metrics, too.
type Reason string

// The reasons.
const (
	Missing    Reason = "missing"     // the event has none
	Malformed  Reason = "malformed"   // the attribute is no signature
	UnknownKey Reason = "unknown_key" // no key of the source made it
	Wrong      Reason = "wrong"       // the event is not what was signed
	NoKeys     Reason = "no_keys"     // the file of keys cannot be used now
)

// Reasons lists all of them.
var Reasons = []Reason{Missing, Malformed, UnknownKey, Wrong, NoKeys}

// Error says why an event is not its producer's word.
type Error struct {
	Reason Reason
	Detail string // continues "the event's signature"
}

// Error repeats no value of the event.
func (e *Error) Error() string { return "the event's signature " + e.Detail }

func refuse(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}
