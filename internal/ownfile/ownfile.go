// Package ownfile opens the files that a program keeps for itself: locks, logs
// and databases. A volume may be shared, so somebody else may have put something
// in their place.
package ownfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// othersWrite is the permission that no such file may have. The group is not in
// it: a mounted volume with fsGroup makes every file writable by the group.
const othersWrite = 0o002

// An Error says what is wrong with a file or folder, and what to do.
type Error struct{ Path, Reason string }

func (e *Error) Error() string { return e.Path + " " + e.Reason }

// Open is os.OpenFile for a regular file that is no symbolic link and that
// others may not write; else the error is an *Error. Links in the folders above
// it are followed: whoever can change those owns the volume.
func Open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	// A pipe would be waited for without O_NONBLOCK. On a regular file it has no effect.
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, perm)
	if errors.Is(err, syscall.ELOOP) {
		return nil, link(path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = judge(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Check applies the rule of Open to a file that another library will open. A
// missing file passes: who creates one decides what it is.
func Check(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return judge(path, info)
}

// CheckFolder refuses a folder in which others may create or rename files.
func CheckFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&othersWrite != 0 {
		return &Error{path, fmt.Sprintf("may be written by every user of this machine; run chmod o-w %s or choose another folder", path)}
	}
	return nil
}

func judge(path string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return link(path)
	case info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return &Error{path, "is not a regular file"}
	case info.Mode().Perm()&othersWrite != 0:
		return &Error{path, fmt.Sprintf("may be written by every user of this machine; check what it holds, then run chmod o-w %s", path)}
	}
	return nil
}

func link(path string) error {
	return &Error{path, "is a symbolic link, which is not followed; name the file itself"}
}
