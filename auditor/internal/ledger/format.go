package ledger

import (
	"bytes"
	"time"
)

// A Rendering is an entry as every store keeps it: the same event gives the same
// line, wherever it is.
type Rendering struct {
	// Content is the line without its number and time. Equal events have equal
	// content, so that two are compared without parsing.
	Content []byte

	// Source and ID identify the event, in quotes as the line has them.
	Source, ID string

	// Task has the version of the event, "" when the event has none: in quotes, and
	// together with Source, since versions of different sources do not mix.
	Task    string
	Version int64
}

// Render checks and encodes the entry. The error is an *InvalidError.
func Render(e Entry) (Rendering, error) {
	r, err := render(e)
	if err != nil {
		return Rendering{}, err
	}
	out := Rendering{Content: r.content, Source: string(r.source), ID: string(r.id)}
	if r.hasVersion {
		out.Task, out.Version = string(r.task), r.version
	}
	return out, nil
}

// AppendLine appends the finished line with its line feed.
func AppendLine(b []byte, seq int64, content []byte, auditedAt time.Time) []byte {
	return appendLine(b, seq, content, auditedAt)
}

// ReadLine returns the number and the content of a line, with or without its line
// feed; the content shares its memory. The error is a *LineError.
func ReadLine(line []byte) (seq int64, content []byte, err error) {
	r, err := readRecord(bytes.TrimSuffix(line, []byte("\n")))
	return r.seq, r.content, err
}
