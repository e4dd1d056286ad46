package ledger

import (
	"sync"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

// versions knows the versions of entries that are on disk and not in the index
// yet, and of those that came last.
type versions struct {
	index *index.Index
	mu    sync.Mutex
	last  *index.Recent[int64] // the highest version of each task of a source

	// What is let go must be in the index.
	noted  int64 // number of the last entry in last
	before int64 // the same, of the part of last that goes next
}

// recentChains take 1 MiB.
const recentChains = 1 << 14

func newVersions(x *index.Index) (*versions, error) {
	latest, err := x.LatestChain()
	return &versions{index: x, last: index.NewRecent[int64](recentChains, latest)}, err
}

// A VersionGap is a task version that does not follow the one before it: versions
// are missing, or it goes back. Last is 0 for a task without an earlier entry.
type VersionGap struct{ Last, Version int64 }

// Back reports whether the version goes back or repeats, so that none is missing.
func (g VersionGap) Back() bool { return g.Version <= g.Last }

// note records the version of an entry and returns a gap when it is not the next
// one of its task. After a step back the highest version remains the one to
// follow. It is called in the order of the log. The entry's version becomes the
// highest, which is what the index keeps.
func (v *versions) note(e *index.Entry) (*VersionGap, error) {
	v.mu.Lock()
	last, held, fresh := v.last.Get(e.Chain)
	v.mu.Unlock()
	if !held && !fresh {
		var err error
		if last, err = v.index.Version(e.Chain); err != nil {
			return nil, err
		}
	}
	version := e.Version
	e.Version = max(version, last)
	v.mu.Lock()
	v.last.Put(e.Chain, e.Version)
	v.noted = e.Seq
	v.mu.Unlock()
	if version == last+1 {
		return nil, nil
	}
	return &VersionGap{Last: last, Version: version}, nil
}

// forget lets go of versions, if there are many. The index has the entries up to
// indexed.
func (v *versions) forget(indexed int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last.Due() && v.before <= indexed {
		v.last.Rotate()
		v.before = v.noted
	}
}
