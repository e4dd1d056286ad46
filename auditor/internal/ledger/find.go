package ledger

import (
	"context"
	"fmt"
)

// A Filter selects entries; an empty member selects all.
type Filter struct{ TaskID, Type string }

// Find is Lines for the entries that match. It reads the log from after on: its
// cost is the log's length, not the number of matches.
func (l *Ledger) Find(ctx context.Context, after int64, f Filter, yield func(seq int64, line []byte) bool) error {
	if f == (Filter{}) {
		return l.Lines(ctx, after, yield)
	}
	task, typ := string(appendString(nil, f.TaskID)), string(appendString(nil, f.Type))
	var bad error
	err := l.Lines(ctx, after, func(seq int64, line []byte) bool {
		r, err := readRecord(line)
		if err != nil {
			bad = fmt.Errorf("read entry %d: %w", seq, err)
			return false
		}
		if f.Type != "" && string(r.typ) != typ || f.TaskID != "" && !r.isAbout(task, f.TaskID) {
			return true
		}
		return yield(seq, line)
	})
	if err == nil {
		err = bad
	}
	return err
}

// isAbout compares without decoding where the entry has a subject.
func (r *record) isAbout(encoded, id string) bool {
	if len(r.subject) > 2 && r.subject[0] == '"' {
		return string(r.subject) == encoded
	}
	return len(r.data) > 0 && Entry{Data: r.data}.TaskID() == id
}
