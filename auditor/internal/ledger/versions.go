package ledger

import (
	"sync"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

// versions overlays the index with the versions of entries that are on disk and
// not in the index yet.
type versions struct {
	index *index.Index
	mu    sync.Mutex
	last  map[index.Hash]lastVersion
}

type lastVersion struct{ version, seq int64 }

func newVersions(x *index.Index) *versions {
	return &versions{index: x, last: map[index.Hash]lastVersion{}}
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
	last, ok := v.last[e.Chain]
	v.mu.Unlock()
	if !ok {
		var err error
		if last.version, err = v.index.Version(e.Chain); err != nil {
			return nil, err
		}
	}
	version := e.Version
	e.Version = max(version, last.version)
	v.mu.Lock()
	v.last[e.Chain] = lastVersion{e.Version, e.Seq}
	v.mu.Unlock()
	if version == last.version+1 {
		return nil, nil
	}
	return &VersionGap{Last: last.version, Version: version}, nil
}

// forget drops what the index has by now.
func (v *versions) forget(entries []index.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range entries {
		if e := &entries[i]; e.Versioned && v.last[e.Chain].seq == e.Seq {
			delete(v.last, e.Chain)
		}
	}
}
