package process

import (
	"bytes"
	"log/slog"
	"runtime/debug"
	"testing"
)

// What the operator sets wins; outside a container nothing is limited or said.
func TestGOMEMLIMITWins(t *testing.T) {
	was := debug.SetMemoryLimit(1 << 40) // as the runtime does with GOMEMLIMIT
	defer debug.SetMemoryLimit(was)
	t.Setenv("GOMEMLIMIT", "1TiB")
	var log bytes.Buffer
	limitMemory(slog.New(slog.NewJSONHandler(&log, nil)))
	if now := debug.SetMemoryLimit(-1); now != 1<<40 || log.Len() > 0 {
		t.Errorf("limit %d, want the one that was set: %s", now, log.String())
	}
}
