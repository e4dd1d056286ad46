package stack

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/taskwire/taskwire/internal/filelock"
)

// lock reserves the data folder for this process.
func lock(dir string) (unlock func() error, err error) {
	f, err := filelock.Take(filepath.Join(dir, "lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("the data folder %s is in use by another instance; stop it or choose another folder with -data", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data folder %s: %w", dir, err)
	}
	return f.Close, nil
}
