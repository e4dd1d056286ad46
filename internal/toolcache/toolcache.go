// Package toolcache keeps what tests download, in .cache of the module: once, for
// all packages and processes.
package toolcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/taskwire/taskwire/internal/filelock"
	"github.com/taskwire/taskwire/internal/retry"
)

// Keep returns the folder <module root>/.cache/name, which fill fills if it is not
// there. It gets its name when it is complete, so that an interrupted download is
// never used. Several processes may call Keep at once: one fills, the others wait.
func Keep(ctx context.Context, name string, fill func(part string) error) (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, ".cache", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	locked, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("lock the cache: %w", err)
	}
	defer locked.Close()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // another process was faster
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil {
		return "", fmt.Errorf("clear the cache: %w", err)
	}
	if err := fill(part); err != nil {
		return "", err
	}
	return dir, os.Rename(part, dir)
}

// moduleRoot finds go.mod above the working folder, which is a test's package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the module root: no go.mod above the working folder")
		}
		dir = filepath.Dir(dir)
	}
}

// lock waits until this process has the lock. Closing the file releases it.
func lock(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := filelock.Take(path)
		if !errors.Is(err, filelock.ErrHeld) {
			return f, err
		}
		if err := retry.Pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
