package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// disk is a small file system in memory for the audit log. It has no path in
// the tree, only an open folder: however this program ends, the kernel removes
// it after the last process that uses it.
type disk struct {
	folder *os.File
	path   string

	mu sync.Mutex // guards the ballast file
}

// newDisk mounts one on at, which must not exist yet. It needs root.
func newDisk(at string, size int64) (*disk, error) {
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return nil, errors.Join(fmt.Errorf("mount a file system in memory: %w", err), os.Remove(at))
	}
	folder, err := os.Open(at)
	if err = errors.Join(err, syscall.Unmount(at, syscall.MNT_DETACH), os.Remove(at)); err != nil {
		return nil, err
	}
	return &disk{folder: folder, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), folder.Fd())}, nil
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// fill leaves no byte free.
func (d *disk) fill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func (d *disk) free() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// keep copies what the auditor left into a folder and releases the file system.
func (d *disk) keep(to string) error {
	err := d.free()
	entries, readErr := os.ReadDir(d.path)
	err = errors.Join(err, readErr)
	for _, e := range entries {
		if e.Type().IsRegular() {
			err = errors.Join(err, copyFile(filepath.Join(d.path, e.Name()), filepath.Join(to, e.Name())))
		}
	}
	return errors.Join(err, d.folder.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
