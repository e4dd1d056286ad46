// Package ledgertest reads an audit log without the code that wrote it.
package ledgertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Line is an entry as a reader of the documented format sees it.
type Line struct {
	Seq        int64           `json:"seq"`
	ID         string          `json:"event_id"`
	Type       string          `json:"event_type"`
	OccurredAt *string         `json:"occurred_at"`
	Data       json.RawMessage `json:"data"`
	Base64     []byte          `json:"data_base64"`
	Metadata   struct {
		CorrelationID any    `json:"correlation_id"`
		Source        string `json:"source"`
	} `json:"metadata"`
	Attributes map[string]any `json:"attributes"`
	AuditedAt  string         `json:"audited_at"`
}

// Key identifies the event.
func (l Line) Key() string { return fmt.Sprintf("%q %q", l.Metadata.Source, l.ID) }

// Check reads the whole log with the standard library alone and fails the test
// unless it has n entries (any number when n is negative), one line each,
// numbered without gaps, no event twice and no unfinished line.
func Check(tb testing.TB, path string, n int) []Line {
	tb.Helper()
	lines, err := Read(path)
	if err != nil {
		tb.Fatalf("audit log: %v", err)
	}
	if n >= 0 && len(lines) != n {
		tb.Fatalf("audit log has %d entries, want %d", len(lines), n)
	}
	return lines
}

// Read is Check without a test. Sealed segments are read first: their names are
// the log's and twelve digits.
func Read(path string) ([]Line, error) {
	names, err := filepath.Glob(path + "." + strings.Repeat("[0-9]", 12))
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, name := range append(names, path) {
		part, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	lines, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

// Parse is Read for a log that was printed.
func Parse(b []byte) ([]Line, error) {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		return nil, errors.New("it ends with an unfinished line")
	}
	var lines []Line
	seen := make(map[string]int64)
	for at := 0; len(b) > 0; {
		i := bytes.IndexByte(b, '\n')
		l, err := parse(b[:i])
		if err != nil {
			return nil, fmt.Errorf("line %d at byte %d: %w", len(lines)+1, at, err)
		}
		if l.Seq != int64(len(lines))+1 {
			return nil, fmt.Errorf("line %d at byte %d has seq %d", len(lines)+1, at, l.Seq)
		}
		if was, ok := seen[l.Key()]; ok {
			return nil, fmt.Errorf("entry %d is the event of entry %d again: %s", l.Seq, was, l.Key())
		}
		seen[l.Key()] = l.Seq
		lines = append(lines, l)
		at, b = at+i+1, b[i+1:]
	}
	return lines, nil
}

func parse(b []byte) (Line, error) {
	var l Line
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(&l); err != nil {
		return Line{}, err
	}
	if dec.InputOffset() != int64(len(b)) {
		return Line{}, fmt.Errorf("%d bytes after the entry", int64(len(b))-dec.InputOffset())
	}
	if l.ID == "" || l.Type == "" || l.Metadata.Source == "" {
		return Line{}, fmt.Errorf("entry %d has no id, type or source", l.Seq)
	}
	if _, err := time.Parse(time.RFC3339, l.AuditedAt); err != nil {
		return Line{}, err
	}
	return l, nil
}
