package ledger

import (
	"bytes"
	"context"
	"fmt"
)

// A Filter selects entries; an empty member selects all.
type Filter struct{ TaskID, Type, Actor string }

// maxScan bounds how many entries one Find reads.
const maxScan = 20_000

// Find is Lines for the entries that match. Those of a task are found by the
// index. A call reads a bounded number of entries: all up to the number it
// returns were looked at, and those that match yielded. At the end of the log that
// is the last entry's; else the next call goes on after it.
func (l *Ledger) Find(ctx context.Context, after int64, f Filter, yield func(p Place, line []byte) bool) (through int64, err error) {
	s := &search{match: f.Matcher(), yield: yield, through: after, left: maxScan}
	l.mu.Lock()
	indexed, entries := l.indexed, l.entries
	l.mu.Unlock()
	if f.TaskID != "" && after < indexed {
		if err := l.findByTask(ctx, after, indexed, s); err != nil || s.stopped {
			return s.through, err
		}
		s.through = indexed
	}
	err = l.Lines(ctx, s.through, s.look)
	if err == nil {
		err = s.err
	}
	if err == nil && !s.stopped {
		s.through = max(s.through, entries)
	}
	return s.through, err
}

// findByTask looks at the entries up to indexed.
func (l *Ledger) findByTask(ctx context.Context, after, indexed int64, s *search) error {
	var bad error
	err := l.index.OfTask(l.index.HashTask(s.match.task), after, func(seq int64) bool {
		if seq > indexed {
			return false
		}
		if bad = ctx.Err(); bad != nil {
			return false
		}
		var line []byte
		var at int64
		if line, at, bad = l.lineAt(seq); bad != nil {
			bad = fmt.Errorf("read entry %d: %w", seq, bad)
			return false
		}
		return s.look(Place{Seq: seq, Offset: at, Length: int64(len(line))}, line)
	})
	switch {
	case err != nil:
		return l.unreadable(err).Err
	case bad != nil:
		return bad
	}
	return s.err
}

// search is what one Find has looked at.
type search struct {
	match   *Matcher
	yield   func(Place, []byte) bool
	through int64
	left    int // lines
	stopped bool
	err     error
}

// look yields the entry if it matches, and says whether to go on.
func (s *search) look(p Place, line []byte) bool {
	if s.stopped = s.left == 0; s.stopped {
		return false
	}
	s.left--
	ok, err := s.match.Match(line)
	if err != nil {
		s.err = fmt.Errorf("read entry %d: %w", p.Seq, err)
		return false
	}
	if s.stopped = ok && !s.yield(p, line); s.stopped {
		s.through = p.Seq - 1
		return false
	}
	s.through = p.Seq
	return true
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
