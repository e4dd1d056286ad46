// Package secretfile keeps the content of a file of secrets that is replaced
// while the program runs. It fails closed: while the file cannot be used, nothing
// that it ever held is in force.
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

// most limits the size of a file, in bytes.
const most = 1 << 20

// File is a file and its parsed content. It is safe for concurrent use.
type File[T any] struct {
	path  string
	parse func(content []byte) (T, error)
	log   *slog.Logger
	open  bool // to be read by everybody

	mu      sync.Mutex
	content T           // guarded by mu: the zero value while err is set
	err     error       // guarded by mu: why the file has no good content now
	seen    fs.FileInfo // guarded by mu: of the file last parsed; nil to read it in any case
	checked time.Time   // guarded by mu
}

// Open reads the file at path. Later the file is read again when it changes;
// what happened to it is logged once. The errors of parse may name a line and
// must not repeat what stands in it.
func Open[T any](path string, parse func(content []byte) (T, error), log *slog.Logger) (*File[T], error) {
	f, err := OpenPublic(path, parse, log)
	if err != nil {
		return nil, err
	}
	f.open = false
	f.warn(f.seen)
	return f, nil
}

// OpenPublic is Open for what is no secret and is trusted all the same, such as a
// certificate: everybody may read it.
func OpenPublic[T any](path string, parse func(content []byte) (T, error), log *slog.Logger) (*File[T], error) {
	content, info, err := read(path, parse)
	if err != nil {
		return nil, err
	}
	return &File[T]{path: path, parse: parse, log: log, open: true, content: content, seen: info, checked: time.Now()}, nil
}

// Check reports what is wrong with the file at path, so that a wrong setting is
// found before a port is opened.
func Check[T any](path string, parse func(content []byte) (T, error)) error {
	_, _, err := read(path, parse)
	return err
}

// Get returns the content in force: the zero value, which must stand for no secret
// at all, while the file cannot be used. The caller must not change it.
func (f *File[T]) Get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.content
}

// Load returns what Get and Err do, of one moment.
func (f *File[T]) Load() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.content, f.err
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
	f.warn(info)
}

// fail is the one place that decides what is in force while the file cannot be
// used: nothing. Whoever empties or removes it means to revoke, and of a file with
// a mistake nobody knows what was meant to stay.
func (f *File[T]) fail(err error) {
	if f.err == nil || f.err.Error() != err.Error() {
		f.log.Error("secret file cannot be used, nothing that it held is in force", "err", err)
	}
	var none T
	f.content, f.err = none, err
}

// warn is for a file that works and could be safer. Only the mode for others
// counts: a mounted Secret must be readable by the group of the pod's user.
func (f *File[T]) warn(info fs.FileInfo) {
	if !f.open && info.Mode().Perm()&0o004 != 0 {
		f.log.Warn("secret file can be read by every user of this machine", "path", f.path, "mode", mode(info))
	}
}

func mode(info fs.FileInfo) string { return fmt.Sprintf("%04o", info.Mode().Perm()) }

// read also returns the state of the file that it parsed: nil when the file
// could not be read, because nothing need change in it before it can.
func read[T any](path string, parse func([]byte) (T, error)) (content T, info fs.FileInfo, err error) {
	info, err = os.Stat(path) // before the read: a change in between is seen at the next check
	if err == nil {
		err = usable(info)
	}
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

// usable refuses what a read could hang on or fill the memory with, and a file in
// which another user could put a secret of their own.
func usable(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return errors.New("is a directory, want a file")
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case info.Size() > most:
		return fmt.Errorf("is larger than %d KiB", most>>10)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("can be written by its group or others (mode %s); run chmod go-w on it", mode(info))
	}
	return nil
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
// with a mounted Secret, one written in place, and one that others may now write.
func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}
