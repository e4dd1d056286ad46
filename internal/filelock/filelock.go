// Package filelock lets one process at a time have a file.
package filelock

import (
	"errors"
	"os"
	"syscall"
)

// ErrHeld says that another process has the lock.
var ErrHeld = syscall.EWOULDBLOCK

// Take locks the file at path, which it makes when it is missing, or says
// ErrHeld at once. Closing the file gives the lock back, and so does the kernel
// when the process ends, however it ends: the file may stay.
func Take(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
