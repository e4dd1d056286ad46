package ledger

import (
	"bytes"
	"context"
	"fmt"
)

// A Filter selects entries; an empty member selects all.
type Filter struct{ TaskID, Type string }

// Find is Lines for the entries that match. It reads the log from after on: the
// cost depends on the log's length, not on the number of matches.
func (l *Ledger) Find(ctx context.Context, after int64, f Filter, yield func(p Place, line []byte) bool) error {
	task, typ := appendString(nil, f.TaskID), appendString([]byte(`"event_type":`), f.Type)
	var bad error
	err := l.Lines(ctx, after, func(p Place, line []byte) bool {
		if f.Type != "" && !bytes.Contains(line, typ) || f.TaskID != "" && cannotBeAbout(line, task) {
			return true
		}
		r, err := readRecord(line)
		if err != nil {
			bad = fmt.Errorf("read entry %d: %w", p.Seq, err)
			return false
		}
		if f.Type != "" && string(r.typ) != string(typ[len(`"event_type":`):]) || f.TaskID != "" && !r.isAbout(task, f.TaskID) {
			return true
		}
		return yield(p, line)
	})
	if err == nil {
		err = bad
	}
	return err
}

// cannotBeAbout rejects most lines without parsing them: in a line without
// escapes, an id can only appear literally.
func cannotBeAbout(line, task []byte) bool {
	return !bytes.Contains(line, task) && bytes.IndexByte(line, '\\') < 0
}

// isAbout compares without decoding where the entry has a subject.
func (r *record) isAbout(encoded []byte, id string) bool {
	if len(r.subject) > 2 && r.subject[0] == '"' {
		return bytes.Equal(r.subject, encoded)
	}
	return len(r.data) > 0 && Entry{Data: r.data}.TaskID() == id
}
