package ledger

import (
	"context"
	"io"
	"testing"
)

// Line is the line of an entry without its line feed, or ErrNotFound.
func (l *Ledger) Line(seq int64) ([]byte, error) {
	p, err := l.Place(context.Background(), seq)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(l.Text(context.Background(), p))
}

// InFlight is the number of entries in flight.
func InFlight(l *Ledger) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight)
}

// ValidJSON is validJSON for tests outside the package.
var ValidJSON = validJSON

// CloseMark lets every write of the mark fail.
func CloseMark(l *Ledger) { l.mark.file.Close() }

// ReopenMark undoes CloseMark.
func ReopenMark(tb testing.TB, l *Ledger) {
	tb.Helper()
	if err := l.mark.begin(l.size); err != nil {
		tb.Fatal(err)
	}
}
