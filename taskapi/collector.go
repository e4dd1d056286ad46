package main

import (
	"context"
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/taskwire/taskwire/taskapi/app"
)

// open makes the service of a process of its own. What the service holds is small
// and what its requests leave behind is not, so the collector ran many times a
// second for a few MiB: about a tenth of the CPU of each change. GOGC wins.
//
// SQLite's page caches are outside of Go's heap, so the collector's limit, if the
// container has one, leaves room for them.
func open(ctx context.Context, cfg app.Config, log *slog.Logger) (*app.Service, error) {
	if before := debug.SetGCPercent(300); before != 100 {
		debug.SetGCPercent(before)
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		debug.SetMemoryLimit(max(limit/2, limit-app.CacheBytes))
	}
	return app.New(ctx, cfg, log)
}
