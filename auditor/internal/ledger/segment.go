package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/taskwire/taskwire/internal/ownfile"
)

// The log is one sequence of lines in several files. Offsets in this package
// count from the beginning of the first one. The newest has the log's name; the
// others are sealed, read-only and full: their names end in the number of their
// first entry, so they sort in order and a missing one shows.
//
//	audit.log.000000000001
//	audit.log.000002500017
//	audit.log
type segments struct {
	mu   sync.RWMutex
	list []segment // in order; the last is the newest
}

type segment struct {
	name string
	base int64 // offset of its first byte in the log
	file File
}

const segmentDigits = 12

func segmentName(path string, first int64) string {
	return fmt.Sprintf("%s.%0*d", path, segmentDigits, first)
}

// sealedNames returns the sealed files beside the log, in order.
func sealedNames(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if ok && len(digits) == segmentDigits && strings.Trim(digits, "0123456789") == "" {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return names, nil // ReadDir sorts
}

// firstOf returns the number in the name of a sealed file.
func firstOf(name string) int64 {
	n, _ := strconv.ParseInt(name[len(name)-segmentDigits:], 10, 64)
	return n
}

// Files returns the files of the log at path, oldest first. It takes no lock: a
// segment may be sealed a moment later, and the log's name be that of the next.
func Files(path string) ([]string, error) {
	newest, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names, err := sealedNames(path)
	if err != nil {
		return nil, err
	}
	if n := len(names); n > 0 {
		if last, err := os.Stat(names[n-1]); err == nil && os.SameFile(last, newest) {
			return names, nil // it is being sealed and has both names
		}
	}
	return append(names, path), nil
}

// openSealed opens the sealed files of a log whose newest file is place, and
// holds each to its name and its neighbours: one that is missing, foreign,
// renumbered, or has lost or gained lines at its end is damage. What they hold is
// checked as the rest of the log is.
func (l *Ledger) openSealed(place *os.File) (base int64, err error) {
	names, err := sealedNames(l.cfg.Path)
	if err != nil {
		return 0, err
	}
	next := int64(1)
	for i, name := range names {
		f, err := ownfile.Open(name, os.O_RDONLY, 0)
		if err != nil {
			return 0, err
		}
		l.segments.list = append(l.segments.list, segment{name, base, sealedFile{f}})
		if i == len(names)-1 && sameFile(f, place) {
			return base, l.unseal()
		}
		if first := firstOf(name); first != next {
			return 0, l.misplaced(name, first, next)
		}
		size, err := checkSealed(f, name, &next)
		if err != nil {
			return 0, err
		}
		base += size
	}
	if next == 1 {
		return 0, nil
	}
	return base, l.checkNewest(place, next)
}

// misplaced is the damage of a segment that does not follow the one before it.
func (l *Ledger) misplaced(name string, first, next int64) *DamageError {
	before := "no segment is before it"
	if n := len(l.segments.list); n > 1 {
		before = fmt.Sprintf("%s ends with entry %d", l.segments.list[n-2].name, next-1)
	}
	return &DamageError{name, 0, fmt.Sprintf("by its name this segment begins with entry %d, but %s: a segment is missing, renamed or changed", first, before)}
}

func sameFile(a, b *os.File) bool {
	ai, aerr := a.Stat()
	bi, berr := b.Stat()
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// unseal undoes a roll-over that ended before the log had its next file.
func (l *Ledger) unseal() error {
	last := len(l.segments.list) - 1
	s := l.segments.list[last]
	l.segments.list = l.segments.list[:last]
	return errors.Join(s.file.Close(), os.Remove(s.name), syncDir(s.name))
}

// checkSealed reads the first and the last line. next is the number that the first
// must have, and becomes the one that must follow.
func checkSealed(f *os.File, name string, next *int64) (size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size = info.Size()
	first, _, err := firstLine(f, size)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	if r, err := readRecord(first); err != nil || r.seq != *next {
		return 0, &DamageError{name, 0, fmt.Sprintf("this segment does not begin with entry %d", *next)}
	}
	last, at, err := lastLine(f, size)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	r, err := readRecord(last)
	if err != nil || r.seq < *next {
		return 0, &DamageError{name, at, "this sealed segment does not end with a complete entry"}
	}
	*next = r.seq + 1
	if info.Mode().Perm()&0o222 != 0 {
		return size, os.Chmod(name, 0o444) // sealed by a process that ended before this
	}
	return size, nil
}

// checkNewest holds the beginning of the newest file to the end of the one before.
func (l *Ledger) checkNewest(place *os.File, next int64) error {
	info, err := place.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	first, complete, err := firstLine(place, info.Size())
	if err != nil {
		return fmt.Errorf("read %s: %w", l.cfg.Path, err)
	}
	if r, err := readRecord(first); complete && err == nil && r.seq != next {
		sealed := l.segments.list[len(l.segments.list)-1].name
		return &DamageError{sealed, 0, fmt.Sprintf("this segment ends with entry %d, and %s begins with entry %d; one of them was changed, or a segment is missing", next-1, l.cfg.Path, r.seq)}
	}
	return nil
}

func firstLine(f io.ReaderAt, size int64) (line []byte, complete bool, err error) {
	line, _, err = newLineReader(f, 0, size, nil, 8<<10).next()
	switch {
	case errors.Is(err, errUnfinished), errors.Is(err, io.EOF), errors.Is(err, errTooLong):
		return line, false, nil
	}
	return line, err == nil, err
}

// lastLine returns the line that ends the file, empty when the file does not end
// with a line feed.
func lastLine(f io.ReaderAt, size int64) (line []byte, at int64, err error) {
	for n := int64(8 << 10); ; n *= 2 {
		n = min(n, size, maxLine)
		buf := make([]byte, n)
		if _, err := f.ReadAt(buf, size-n); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		if n == 0 || buf[n-1] != '\n' {
			return nil, size, nil
		}
		if i := bytes.LastIndexByte(buf[:n-1], '\n'); i >= 0 || n == size || n == maxLine {
			return buf[i+1 : n-1], size - n + int64(i) + 1, nil
		}
	}
}

// sealedFile is a File that nothing is written to.
type sealedFile struct{ *os.File }

func (sealedFile) Truncate(int64) error { return syscall.EROFS }

// ReadAt reads across files.
func (s *segments) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		seg, end := s.at(off + int64(n))
		want := len(p) - n
		if end >= 0 {
			want = int(min(int64(want), end-off-int64(n)))
		}
		m, err := seg.file.ReadAt(p[n:n+want], off+int64(n)-seg.base)
		n += m
		if err != nil && m < want {
			return n, err
		}
	}
	return n, nil
}

// at returns the file that holds an offset, and the offset of the next file, -1
// for the newest.
func (s *segments) at(off int64) (seg segment, end int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, found := slices.BinarySearchFunc(s.list, off, func(seg segment, off int64) int { return int(max(-1, min(1, seg.base-off))) })
	if !found {
		i--
	}
	if i+1 < len(s.list) {
		return s.list[i], s.list[i+1].base
	}
	return s.list[i], -1
}

// damage is a *DamageError at an offset of the log.
func (l *Ledger) damage(at int64, reason string) *DamageError {
	seg, _ := l.segments.at(at)
	return &DamageError{seg.name, at - seg.base, reason}
}

func (s *segments) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range slices.Backward(s.list) { // the newest first: it is locked
		err = errors.Join(err, seg.file.Close())
	}
	return err
}

// roll seals the newest file when it is long enough, and begins the next one. All
// of it is durable, and no batch is being written. first is the number of its
// first entry.
//
//	link(log, log.N)           two names for the full file
//	fsync(directory)           the second is durable before the first goes
//	open(log.next), flock      the next file, locked before it has the log's name
//	rename(log.next, log)      the log goes on in it
//	fsync(directory)           before anything in it is answered
//	chmod(log.N, 0444)
//
// The log's name names a file at any time, and every line has a durable name. A
// process that ends before the rename leaves one file with two names, and the
// next start drops the second; one that ends after it leaves an empty newest
// file, with which the next start goes on. Until the rename an error is no harm:
// the log goes on in the same file.
func (l *Ledger) roll(first, size int64) error {
	path, sealed := l.cfg.Path, segmentName(l.cfg.Path, first)
	if err := l.linkSealed(path, sealed); err != nil {
		l.retryRoll(err, size)
		return nil
	}
	f, err := openNext(path)
	if err == nil {
		l.rolling()
		if err = os.Rename(f.Name(), path); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		l.retryRoll(errors.Join(err, os.Remove(sealed)), size)
		return nil
	}
	l.rolling()
	if err := syncDir(path); err != nil {
		return &FaultError{fmt.Errorf("begin the next segment: %w", errors.Join(err, f.Close()))}
	}
	l.rolling()
	next := &lockedFile{f, path}
	l.place = f
	l.segments.mu.Lock()
	l.segments.list[len(l.segments.list)-1].name = sealed
	l.file = l.wrap(next)
	l.base, l.rollAt = size, size+l.cfg.SegmentBytes
	l.segments.list = append(l.segments.list, segment{path, size, l.file})
	l.segments.mu.Unlock()
	if err := os.Chmod(sealed, 0o444); err != nil && l.cfg.OnMark != nil {
		l.cfg.OnMark(fmt.Errorf("make the sealed segment read-only: %w", err)) // the next start tries again
	}
	return nil
}

// linkSealed gives the newest file its second name.
func (l *Ledger) linkSealed(path, sealed string) error {
	err := os.Link(path, sealed)
	if errors.Is(err, fs.ErrExist) { // left by an attempt that could not be undone
		if info, serr := os.Lstat(sealed); serr == nil {
			if open, perr := l.place.Stat(); perr == nil && os.SameFile(info, open) {
				err = nil
			}
		}
	}
	if err != nil {
		return err
	}
	l.rolling()
	return syncDir(path)
}

// openNext creates and locks the next file under a name of its own.
func openNext(path string) (*os.File, error) {
	next := path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := ownfile.Open(next, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// retryRoll goes on with the same file for a while.
func (l *Ledger) retryRoll(err error, size int64) {
	l.rollAt = size + max(l.cfg.SegmentBytes/16, 1<<16)
	if l.cfg.OnMark != nil {
		l.cfg.OnMark(fmt.Errorf("begin the next segment: %w", err))
	}
}

func (l *Ledger) rolling() {
	if l.cfg.OnRoll != nil {
		l.cfg.OnRoll()
	}
}
