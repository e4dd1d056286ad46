package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/taskwire/taskwire/internal/ownfile"
)

// markSuffix is the name of the mark's file, after the log's.
const markSuffix = ".acked"

// syncMarkAfter bounds how long a mark stays in the page cache only.
const syncMarkAfter = time.Second

// mark is the length up to which the log was ever acknowledged, in a file beside
// it: without one, a log that was cut within an acknowledged line looks like one
// whose last write was not finished, and a log that was cut between two lines
// like a shorter log. The package comment says what it can promise.
//
// The file holds one line of fixed width, written in place.
type mark struct {
	path  string
	file  *os.File // nil until begin
	onErr func(error)

	mu     sync.Mutex
	armed  *time.Timer // the sync to come; nil when all of the file is on disk
	closed bool
	failed bool // the last write failed, and onErr knows
}

const markLine = "%020d\n"

// readMark returns 0 for a log without a mark, and for a mark that a power loss
// left empty or garbled: not knowing must not stop the auditor.
func readMark(path string) (int64, error) {
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	n, err := strconv.ParseInt(string(bytes.TrimSuffix(line, []byte("\n"))), 10, 64)
	if err != nil || len(line) != len(fmt.Sprintf(markLine, 0)) || n < 0 {
		return 0, nil
	}
	return n, nil
}

// begin creates the file and makes it durable. A full disk is no error: the log
// can still be read, and later marks try again.
func (m *mark) begin(size int64) error {
	f, err := ownfile.Open(m.path, os.O_RDWR|os.O_CREATE, 0o640)
	if noRoom(err) {
		m.report(err)
		return nil
	}
	if err != nil {
		return err
	}
	m.file = f
	m.raise(size)
	m.mu.Lock()
	failed := m.failed
	m.mu.Unlock()
	if failed {
		return nil
	}
	m.sync()
	return syncDir(m.path)
}

// raise notes that the log is durable up to size. It does not wait for the disk:
// the process may be killed at once after it, and the file is synced a moment
// later in the background, at most once a second.
func (m *mark) raise(size int64) {
	if m.file == nil {
		return
	}
	_, err := m.file.WriteAt(fmt.Appendf(nil, markLine, size), 0)
	m.report(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.armed == nil && !m.closed {
		m.armed = time.AfterFunc(syncMarkAfter, m.sync)
	}
}

// sync is best effort: a mark that is too low defends less and refuses nothing.
func (m *mark) sync() {
	m.mu.Lock()
	m.armed = nil // a mark that is raised from here on is synced again
	m.mu.Unlock()
	if err := m.file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		m.report(err)
	}
}

// report tells the first error of a row.
func (m *mark) report(err error) {
	m.mu.Lock()
	first := err != nil && !m.failed
	m.failed = err != nil
	m.mu.Unlock()
	if first && m.onErr != nil {
		m.onErr(fmt.Errorf("mark what was acknowledged in %s: %w", m.path, err))
	}
}

// close syncs what is not on disk yet. Nothing is raised after it.
func (m *mark) close() error {
	if m.file == nil {
		return nil
	}
	m.mu.Lock()
	m.closed = true
	pending := m.armed
	m.mu.Unlock()
	if pending != nil && pending.Stop() {
		m.sync()
	}
	return m.file.Close()
}
