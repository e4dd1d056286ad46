// Package filelock lets one process at a time hold a file.
package filelock

import (
	"errors"
	"os"
	"syscall"

	"github.com/taskwire/taskwire/internal/ownfile"
)

// ErrHeld: another process has the lock.
var ErrHeld = syscall.EWOULDBLOCK

// Take locks the file at path, creating it if it is missing, or returns ErrHeld
// at once. A link, or a file that others may write, is refused: they could keep
// the lock for ever, or have another file emptied. Closing the file releases the lock, and so does the kernel however
// the process ends: the file may stay.
func Take(path string) (*os.File, error) {
	f, err := ownfile.Open(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
