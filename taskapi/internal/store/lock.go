package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/taskwire/taskwire/internal/filelock"
	"github.com/taskwire/taskwire/internal/ownfile"
)

// ErrLocked: another process has the database open.
var ErrLocked = errors.New("in use by another taskapi")

// lock makes this process the only one that writes the database at path.
// SQLite itself would let two alternate, but then two relays would publish, and
// the count of waiting events would be wrong in both.
//
// The lock is on a file beside the database: closing any descriptor of the
// database file itself would drop SQLite's own locks. The kernel releases it
// when the process ends, however it ends, so the file may stay.
func lock(path string) (*os.File, error) {
	name := path + ".lock"
	f, err := filelock.Take(name)
	if errors.Is(err, filelock.ErrHeld) {
		owner, _ := os.ReadFile(name) // only a hint for the operator
		return nil, fmt.Errorf("%s is %w (process %s); stop it or set DATABASE_URL to another path",
			path, ErrLocked, strings.TrimSpace(string(owner)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("folder %s does not exist; create it or set DATABASE_URL to another path", filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // only a hint, see above
	}
	return f, nil
}

// private creates the database file before SQLite does, readable by its owner
// only. SQLite gives the WAL the same mode.
func private(path string) error {
	f, err := ownfile.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return f.Close()
}
