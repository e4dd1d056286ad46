//go:build failpoint

package app

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/failpoint"
)

// pointed adds the fail points of the disk below the ledger, which has none of its
// own, and records what a power loss would leave: the bytes of the last Sync that
// returned nil, without those of one that failed, whether the segment that has them is
// sealed by then or not. As on a real disk, the Sync after a failed one succeeds and
// does not bring them back.
func pointed(f ledger.File) ledger.File {
	p := &pointedFile{File: f}
	// The ledger synced the file before it called Wrap.
	end, _ := f.(io.Seeker).Seek(0, io.SeekEnd) // the ledger writes with O_APPEND
	p.size, p.synced = end, end
	failpoint.Power = p.losePower
	return p
}

type pointedFile struct {
	ledger.File
	mu      sync.Mutex // held in each step, so that nothing is written after the power loss
	size    int64
	synced  int64
	written bool // recovery is over
}

// dropped are the bytes that failed Syncs dropped.
var dropped struct {
	mu     sync.Mutex
	ranges []lostBytes
}

type lostBytes struct {
	file     os.FileInfo // a sealed segment has another name
	from, to int64
}

// drop notes that the file called name has lost bytes.
func drop(name string, from, to int64) {
	info, err := os.Stat(name)
	if err != nil {
		panic(err)
	}
	dropped.mu.Lock()
	defer dropped.mu.Unlock()
	dropped.ranges = append(dropped.ranges, lostBytes{info, from, to})
}

func (p *pointedFile) Write(b []byte) (int, error) {
	p.written = true
	failpoint.HitAfter("U2", func() {
		last := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
		_, _ = p.File.Write(b[:(last+len(b))/2])
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.File.Write(b)
	p.size += int64(n)
	return n, err
}

func (p *pointedFile) Sync() error {
	if !p.written {
		failpoint.Hit("U7")
	}
	failpoint.Hit("U3")
	if err := p.sync(); err != nil {
		return err
	}
	failpoint.Hit("U4")
	return nil
}

func (p *pointedFile) sync() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if failpoint.Fails("U3") {
		drop(p.name(), p.synced, p.size)
		return &os.PathError{Op: "sync", Path: "audit log", Err: syscall.EIO}
	}
	if err := p.File.Sync(); err != nil {
		return err
	}
	p.synced = p.size
	return nil
}

func (p *pointedFile) Truncate(size int64) error {
	if !p.written {
		failpoint.Hit("U7")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.File.Truncate(size)
	if err == nil {
		p.size, p.synced = size, min(p.synced, size)
	}
	return err
}

func (p *pointedFile) name() string { return p.File.(interface{ Name() string }).Name() }

// losePower leaves the mutex locked: the process is about to end.
func (p *pointedFile) losePower() {
	p.mu.Lock()
	_ = p.File.Truncate(p.synced)
	_ = os.Truncate(p.name()+".acked", 0) // the mark is not synced for each batch
	segments, err := filepath.Glob(p.name() + "*")
	if err != nil {
		panic(err)
	}
	dropped.mu.Lock()
	for _, lost := range dropped.ranges {
		for _, name := range segments {
			if info, err := os.Stat(name); err == nil && os.SameFile(info, lost.file) {
				zero(name, lost.from, min(lost.to, info.Size()))
			}
		}
	}
}

// zero is for bytes that never reached the disk, though a later Sync covered them.
func zero(name string, from, to int64) {
	_ = os.Chmod(name, 0o600)                      // a sealed segment is read-only
	disk, err := os.OpenFile(name, os.O_WRONLY, 0) // without O_APPEND
	if err != nil {
		panic(err)
	}
	if _, err := disk.WriteAt(make([]byte, max(0, to-from)), from); err != nil {
		panic(err)
	}
}

// pointedTree adds the fail points of the tree, which has none of its own.
func pointedTree(s tree.Store) tree.Store { return pointedStore{s} }

type pointedStore struct{ tree.Store }

func (p pointedStore) WriteTile(ctx context.Context, path string, data []byte) error {
	failpoint.Hit("T1")
	if err := p.Store.WriteTile(ctx, path, data); err != nil {
		return err
	}
	failpoint.Hit("T2")
	return nil
}

func (p pointedStore) WriteCheckpoint(ctx context.Context, note []byte) error {
	failpoint.Hit("T3")
	if err := p.Store.WriteCheckpoint(ctx, note); err != nil {
		return err
	}
	failpoint.Hit("T4")
	return nil
}
