package process

import (
	"errors"
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// limitMemory tells the collector about the container's limit: it lets the heap
// grow to twice what is in use, and the kernel kills a container that reaches its
// limit with memory that could have been freed. A tenth is left to what is not
// the heap. GOMEMLIMIT in the environment wins.
func limitMemory(log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(0.9))
	if errors.Is(err, memlimit.ErrCgroupsNotSupported) || errors.Is(err, memlimit.ErrNoCgroup) {
		return // not in a container
	}
	if err != nil {
		log.Warn("memory limit of the container not known, set GOMEMLIMIT", "err", err)
		return
	}
	log.Debug("memory limit", "bytes", limit)
}
