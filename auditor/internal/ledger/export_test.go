package ledger

import (
	"context"
	"io"
	"testing"
	"time"
)

// DoNotSyncIndexes makes tests that open thousands of logs fast. The index is
// made again from the log whenever the disk lost some of it.
func DoNotSyncIndexes() { unsyncedIndex = true }

// AwaitIndexed waits until the index has every entry on disk.
func AwaitIndexed(l *Ledger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.indexed < l.entries && l.fault == nil {
		l.wake.Wait()
	}
}

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

// RenderLine is the line that Append would write.
func RenderLine(e Entry, seq int64, at time.Time) ([]byte, error) {
	r, err := render(e)
	return appendLine(nil, seq, r.content, at), err
}
