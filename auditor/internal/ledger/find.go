package ledger

import (
	"bytes"
	"context"
	"fmt"
)

// A Filter selects entries; an empty member selects all.
type Filter struct{ TaskID, Type, Actor string }

// Find is Lines for the entries that match. Everything up to the number through
// was looked at; when yield returned false, that is the entry before the one it
// refused. The end of the log is reached when through is Len.
func (l *Ledger) Find(ctx context.Context, after int64, f Filter, yield func(p Place, line []byte) bool) (through int64, err error) {
	through, m := max(after, 0), f.Matcher()
	var bad error
	err = l.Lines(ctx, after, func(p Place, line []byte) bool {
		var matched bool
		if matched, bad = m.Match(line); bad != nil {
			bad = fmt.Errorf("read entry %d: %w", p.Seq, bad)
			return false
		}
		if matched && !yield(p, line) {
			return false
		}
		through = p.Seq
		return true
	})
	if err == nil {
		err = bad
	}
	return through, err
}

// A Matcher is a Filter that is ready to look at lines.
type Matcher struct {
	Filter
	task, typ, actor []byte // as a line has them
}

// Matcher returns the filter's.
func (f Filter) Matcher() *Matcher {
	return &Matcher{f, appendString(nil, f.TaskID), appendString([]byte(`"event_type":`), f.Type), appendString(nil, f.Actor)}
}

// Match reports whether the filter selects the line, which has no line feed. Most
// lines are rejected without being parsed. The error is a *LineError.
func (m *Matcher) Match(line []byte) (bool, error) {
	switch {
	case m.Filter == Filter{}:
		return true, nil
	case m.Type != "" && !bytes.Contains(line, m.typ), m.Actor != "" && !bytes.Contains(line, m.actor), m.TaskID != "" && m.cannotBeAbout(line):
		return false, nil
	}
	r, err := readRecord(line)
	if err != nil {
		return false, err
	}
	return (m.Type == "" || string(r.typ) == string(m.typ[len(`"event_type":`):])) && (m.Actor == "" || bytes.Equal(r.actor, m.actor)) &&
		(m.TaskID == "" || r.isAbout(m.task, m.TaskID)), nil
}

// cannotBeAbout: in a line without escapes, an id can only appear literally.
func (m *Matcher) cannotBeAbout(line []byte) bool {
	return !bytes.Contains(line, m.task) && bytes.IndexByte(line, '\\') < 0
}

// isAbout compares without decoding where the entry has a subject.
func (r *record) isAbout(encoded []byte, id string) bool {
	if len(r.subject) > 2 && r.subject[0] == '"' {
		return bytes.Equal(r.subject, encoded)
	}
	return len(r.data) > 0 && Entry{Data: r.data}.TaskID() == id
}
