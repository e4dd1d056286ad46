package app

import (
	"log/slog"
	"sync/atomic"

	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/secretfile"
)

// stateKeyFile is the file of the keys that seal commits.
func stateKeyFile(r *env.Reader) string {
	path := r.String("BRIDGE_STATE_KEY_FILE", "")
	if path == "" {
		return ""
	}
	if err := secretfile.Check(path, seal.Parse); err != nil {
		r.Fail("BRIDGE_STATE_KEY_FILE", "%v", err)
	}
	return path
}

// stateKeys are the keys that seal commits, and their check for /readyz. While
// the file cannot be used the last good ones stay in force: they let nobody in,
// and without them no progress could be stored.
func stateKeys(path string, log *slog.Logger) (get func() seal.Keys, err func() error, _ error) {
	file, failed := secretfile.Open(path, seal.Parse, log)
	if failed != nil {
		return nil, nil, failed
	}
	var last atomic.Pointer[seal.Keys]
	get = func() seal.Keys {
		keys := file.Get()
		if len(keys) == 0 {
			return *last.Load()
		}
		last.Store(&keys)
		return keys
	}
	first := file.Get()
	last.Store(&first)
	return get, file.Err, nil
}
