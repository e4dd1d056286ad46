// Package secretfile keeps the content of a file of secrets that is replaced
// while the program runs.
package secretfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// recheck bounds how often the file is looked at, and so how long a secret that
// was removed is still accepted.
const recheck = time.Second

// File is a file and its parsed content. It is safe for concurrent use.
type File[T any] struct {
	path  string
	parse func(content []byte) (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	content T           // guarded by mu: the last good content
	err     error       // guarded by mu: why the file has no good content now
	seen    fs.FileInfo // guarded by mu: of the file last parsed; nil to read it in any case
	checked time.Time   // guarded by mu
}

// Open reads the file at path. Later the file is read again when it changes;
// what happened to it is logged once. The errors of parse may name a line and
// must not repeat what stands in it.
func Open[T any](path string, parse func(content []byte) (T, error), log *slog.Logger) (*File[T], error) {
	content, info, err := read(path, parse)
	if err != nil {
		return nil, err
	}
	return &File[T]{path: path, parse: parse, log: log, content: content, seen: info, checked: time.Now()}, nil
}

// Check reports what is wrong with the file at path, so that a wrong setting is
// found before a port is opened.
func Check[T any](path string, parse func(content []byte) (T, error)) error {
	_, _, err := read(path, parse)
	return err
}

// Get returns the content in force. The caller must not change it.
func (f *File[T]) Get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.content
}

// Err reports why the file cannot be used now; nil when Get returns what it holds.
func (f *File[T]) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.err
}

// refresh runs under mu.
func (f *File[T]) refresh() {
	if time.Since(f.checked) < recheck {
		return
	}
	f.checked = time.Now()
	if f.seen != nil {
		if info, err := os.Stat(f.path); err == nil && unchanged(f.seen, info) {
			return
		}
	}
	content, info, err := read(f.path, f.parse)
	f.seen = info
	if err != nil {
		f.fail(err)
		return
	}
	f.content, f.err = content, nil
	f.log.Info("secret file read again", "path", f.path)
}

// fail is the one place that decides what is in force while the file cannot be
// used: the last good content, so that a mistake in a rotation stops nobody.
func (f *File[T]) fail(err error) {
	if f.err == nil || f.err.Error() != err.Error() {
		f.log.Error("secret file cannot be used, last good content stays in force", "err", err)
	}
	f.err = err
}

// read also returns the state of the file that it parsed: nil when the file
// could not be read, because nothing need change in it before it can.
func read[T any](path string, parse func([]byte) (T, error)) (content T, info fs.FileInfo, err error) {
	info, err = os.Stat(path) // before the read: a change in between is seen at the next check
	if err != nil {
		return content, nil, withoutCall(path, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return content, nil, withoutCall(path, err)
	}
	if content, err = parse(raw); err != nil {
		return content, info, fmt.Errorf("%s: %w", path, err)
	}
	return content, info, nil
}

// withoutCall drops the name of the system call, which helps no operator.
func withoutCall(path string, err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// unchanged sees a file replaced by name, by symbolic link, as Kubernetes does
// with a mounted Secret, and one written in place.
func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
