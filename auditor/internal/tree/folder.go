package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
)

// A Folder is a Store in the file system. Symbolic links that lead out of it are
// not followed.
type Folder struct {
	root *os.Root
	mu   sync.Mutex // one writer at a time uses the temporary names
}

// OpenFolder opens the folder, which must exist.
func OpenFolder(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Folder{root: root}, nil
}

// Close releases the folder.
func (f *Folder) Close() error { return f.root.Close() }

// Read returns the content of a file.
func (f *Folder) Read(_ context.Context, name string) ([]byte, error) { return f.root.ReadFile(name) }

// WriteTile writes the tile aside and renames it, so that a killed process leaves
// no part of one. It is not synced: after a power loss it is made again from the log.
func (f *Folder) WriteTile(_ context.Context, name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	const temporary = "tile/next"
	err := f.write(temporary, data, 0o444, false)
	if errors.Is(err, fs.ErrNotExist) {
		if err = f.root.MkdirAll(path.Dir(temporary), 0o755); err == nil {
			err = f.write(temporary, data, 0o444, false)
		}
	}
	if err != nil {
		return err
	}
	err = f.root.Rename(temporary, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = f.root.MkdirAll(path.Dir(name), 0o755); err == nil {
			err = f.root.Rename(temporary, name)
		}
	}
	if err == nil && !strings.Contains(name, ".p/") {
		err = f.root.RemoveAll(name + ".p")
	}
	return err
}

// WriteCheckpoint syncs the new file and renames it. The name is not synced: after
// a power loss it may be the checkpoint before, which is as true.
func (f *Folder) WriteCheckpoint(_ context.Context, note []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	const temporary = "checkpoint.next"
	if err := f.write(temporary, note, 0o644, true); err != nil {
		return err
	}
	return f.root.Rename(temporary, checkpointPath)
}

func (f *Folder) write(name string, data []byte, perm fs.FileMode, sync bool) error {
	// A file that a killed process left may be read-only.
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil && sync {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}
