package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/taskwire/taskwire/internal/ownfile"
)

// A File is what the ledger needs of the log's file. Write appends at the end,
// all of it or with an error; after Sync returns nil, what was written survives a
// power loss.
type File interface {
	io.ReaderAt
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// openLog opens or creates the log for appending, locks it and makes the file's
// name durable:
//
//	open(path, O_RDWR|O_APPEND|O_CREAT|O_NOFOLLOW, 0640)
//	flock(LOCK_EX|LOCK_NB)    one writer; the kernel releases the lock when the process ends
//	fsync(file)               lines that a killed process left in the page cache
//	fsync(directory)          the name, even if the process that created it was killed
//
// The first fsync has to come before any answer: a line of a killed process may
// be found again, answered as a duplicate and so acknowledged.
func openLog(path string) (*lockedFile, int64, error) {
	f, err := ownfile.Open(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if errors.Is(err, fs.ErrNotExist) { // the file is created, so a folder is missing
		return nil, 0, fmt.Errorf("folder %s: %w; create it or set AUDIT_LOG_PATH to a new file", filepath.Dir(path), syscall.ENOENT)
	}
	if err != nil {
		return nil, 0, err
	}
	size, err := claim(f, path)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return &lockedFile{f, path}, size, nil
}

// lockedFile releases the lock before it closes: a child process that is being
// started shares the open file, and so the lock, for a moment.
type lockedFile struct {
	*os.File
	path string
}

// Name is the log's: a file is opened under another name when it continues a log.
func (f *lockedFile) Name() string { return f.path }

func (f *lockedFile) Close() error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.File.Close())
}

func claim(f *os.File, path string) (int64, error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return 0, fmt.Errorf("open %s: %w", path, ErrLocked)
		}
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	// The file may have been sealed between the open and the lock.
	if named, err := os.Lstat(path); err != nil {
		return 0, err
	} else if open, err := f.Stat(); err != nil || !os.SameFile(named, open) {
		return 0, errors.Join(fmt.Errorf("open %s: %w", path, ErrLocked), err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync %s: %w", path, err)
	}
	if err := syncDir(path); err != nil {
		return 0, err
	}
	// The lock is held: from here on nothing else appends.
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// inPlace returns a *FaultError unless the log's path names the open file, and
// the file has the length that this process gave it.
func (l *Ledger) inPlace(size int64) error {
	named, err := os.Lstat(l.cfg.Path)
	if err != nil {
		return &FaultError{fmt.Errorf("audit log was removed or renamed while it was open: %w", err)}
	}
	open, err := l.place.Stat()
	switch {
	case err != nil:
		return &FaultError{fmt.Errorf("audit log: %w", err)}
	case !os.SameFile(named, open):
		return &FaultError{fmt.Errorf("audit log %s was replaced by another file while it was open", l.cfg.Path)}
	case open.Size() != size-l.base:
		return &FaultError{fmt.Errorf("audit log %s was changed by another program: it has %d bytes, %d were written", l.cfg.Path, open.Size(), size-l.base)}
	}
	return nil
}

// syncDir makes the names in the directory of path durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir.Name(), err), dir.Close())
	}
	return dir.Close()
}

// noRoom reports whether err is a full disk, quota or size limit, not a failing disk.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// keepAside copies the log's bytes between two offsets into a new file and makes
// it durable, content first and name second.
func keepAside(log io.ReaderAt, from, to int64, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// A partial copy would look like a complete one.
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if _, err = io.Copy(f, io.NewSectionReader(log, from, to-from)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncDir(path)
}

// Room is the error of the last write when there was no room and there still is
// none. It becomes nil as soon as there is room, not at the next append: a
// service that is not ready receives none.
func (l *Ledger) Room() error {
	full := l.Full()
	if full == nil || hasRoom(filepath.Dir(l.cfg.Path)) {
		return nil
	}
	return full
}

// hasRoom reports whether there is room for more than a batch; true when that
// cannot be told.
func hasRoom(dir string) bool {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return true
	}
	const enough = 1 << 20
	return uint64(st.Bavail)*uint64(st.Bsize) >= enough //nolint:unconvert // the types differ between systems
}
