package ledger_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// callFault fails one call on the log's files, before or after its effect.
type callFault struct {
	mu    sync.Mutex // the background check reads too
	left  int        // calls until the one that fails
	after bool
	err   error
	hit   bool
}

// faultFile is one of the files: a log that rolls over has several open at once.
type faultFile struct {
	ledger.File
	*callFault
}

func (f *callFault) due() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left--
	f.hit = f.hit || f.left == -1
	return f.left == -1
}

func (f faultFile) Write(p []byte) (int, error) {
	if !f.due() {
		return f.File.Write(p)
	}
	n := len(p) / 3
	if f.after {
		n = len(p)
	}
	n, err := f.File.Write(p[:n])
	return n, errors.Join(f.err, err)
}

func (f faultFile) effect(do func() error) error {
	if !f.due() {
		return do()
	}
	if f.after {
		return errors.Join(f.err, do())
	}
	return f.err
}

func (f faultFile) Sync() error { return f.effect(f.File.Sync) }
func (f faultFile) Truncate(n int64) error {
	return f.effect(func() error { return f.File.Truncate(n) })
}

func (f faultFile) ReadAt(p []byte, off int64) (int, error) {
	if f.due() {
		return 0, f.err
	}
	return f.File.ReadAt(p, off)
}

// One workload (a torn log, new events, known ones, another start) runs once for
// every call it makes on the file, with that call failing. Afterwards everything
// acknowledged is in the log once, and a start without errors continues.
func TestEveryCallFailsOnce(t *testing.T) {
	t.Parallel()
	torn, _ := wholeLog(t, 3)
	torn = torn[:len(torn)-30]
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, after := range []bool{false, true} {
			segment := int64(1000) // the log rolls over after every third entry
			if after {
				segment = 0
			}
			for call := 0; ; call++ {
				path := filepath.Join(t.TempDir(), "audit.log")
				if err := os.WriteFile(path, torn, 0o600); err != nil {
					t.Fatal(err)
				}
				fault := &callFault{left: call, after: after, err: cause}
				acked := workload(path, segment, fault)
				judge(t, path, acked)
				if !fault.hit {
					if call < 10 {
						t.Fatalf("the workload made %d calls only", call)
					}
					t.Logf("%v, after its effect %v: %d calls", cause, after, call)
					break
				}
			}
		}
	}
}

// workload returns the acknowledged events by id. It stops where the service
// would exit.
func workload(path string, segment int64, fault *callFault) map[string]int64 {
	acked := map[string]int64{}
	for range 2 {
		l, err := ledger.Open(context.Background(), ledger.Config{Path: path, SegmentBytes: segment, Wrap: func(f ledger.File) ledger.File {
			return faultFile{f, fault}
		}})
		if err != nil {
			continue
		}
		for v := 1; v <= 6; v++ {
			for range 2 {
				if out := l.Append(newEntry("a", v))[0]; out.Err == nil {
					acked[newEntry("a", v).ID] = out.Seq
				}
			}
		}
		_ = l.Close()
	}
	return acked
}

func judge(t *testing.T, path string, acked map[string]int64) {
	t.Helper()
	l := mustOpen(t, ledger.Config{Path: path})
	for v := 1; v <= 6; v++ {
		if out := l.Append(newEntry("a", v))[0]; out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	mustClose(t, l)
	lines := ledgertest.Check(t, path, 6)
	for id, seq := range acked {
		if lines[seq-1].ID != id {
			t.Fatalf("%s was acknowledged as entry %d, which is %s", id, seq, lines[seq-1].ID)
		}
	}
}
