package ledger_test

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

var errDisk = errors.New("disk on fire")

// faultyFile fails where one of its functions does. It also checks the ledger:
// nothing may be cut below what was synced.
type faultyFile struct {
	ledger.File
	write    func(p []byte) (int, error) // writes what it returns, then fails with the error
	sync     func() error
	truncate func(int64) error
	read     func(off int64) error

	syncs  atomic.Int64
	size   atomic.Int64
	synced atomic.Int64
}

func (f *faultyFile) Write(p []byte) (int, error) {
	n, fail := len(p), error(nil)
	if f.write != nil {
		n, fail = f.write(p)
	}
	n, err := f.File.Write(p[:n])
	f.size.Add(int64(n))
	return n, errors.Join(fail, err)
}

func (f *faultyFile) Sync() error {
	f.syncs.Add(1)
	if f.sync != nil {
		if err := f.sync(); err != nil {
			return err
		}
	}
	size := f.size.Load()
	err := f.File.Sync()
	f.synced.Store(size)
	return err
}

func (f *faultyFile) Truncate(size int64) error {
	if size < f.synced.Load() {
		panic("cut below what was synced")
	}
	if f.truncate != nil {
		if err := f.truncate(size); err != nil {
			return err
		}
	}
	f.size.Store(size)
	return f.File.Truncate(size)
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if f.read != nil {
		if err := f.read(off); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(p, off)
}

// openFaulty opens an empty log on a file that can fail later.
func openFaulty(t *testing.T) (*ledger.Ledger, *faultyFile, string) {
	t.Helper()
	path := logPath(t)
	var f *faultyFile
	l := mustOpen(t, ledger.Config{Path: path, Wrap: func(file ledger.File) ledger.File {
		f = &faultyFile{File: file}
		return f
	}})
	return l, f, path
}

func TestNoAnswerBeforeTheFsync(t *testing.T) {
	t.Parallel()
	l, f, path := openFaulty(t)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for v := 1; v <= 30; v++ {
				out := l.Append(newEntry(string(rune('a'+w)), v))[0]
				if out.Err != nil {
					t.Error(out.Err)
					return
				}
				durable := f.synced.Load()
				line, err := l.Line(out.Seq)
				if err != nil {
					t.Error(err)
					return
				}
				log, _ := os.ReadFile(path)
				if end := int64(bytes.Index(log, line) + len(line) + 1); end > durable {
					t.Errorf("entry %d ends at %d and was answered with %d bytes durable", out.Seq, end, durable)
				}
			}
		})
	}
	wg.Wait()
	if f.syncs.Load() >= 16*30 {
		t.Logf("%d fsyncs for %d entries: nothing was grouped", f.syncs.Load(), 16*30)
	}
	ledgertest.Check(t, path, 16*30)
}

// awaitInFlight waits until n entries are in flight; the writer waits for the
// test meanwhile.
func awaitInFlight(t *testing.T, l *ledger.Ledger, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ledger.InFlight(l) < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d entries in flight, want %d", ledger.InFlight(l), n)
		}
	}
}

func TestWaitersShareOneFsync(t *testing.T) {
	t.Parallel()
	l, f, path := openFaulty(t)
	writing, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	f.sync = func() error {
		if first.CompareAndSwap(false, true) {
			close(writing)
			<-goOn
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.Append(newEntry("first", 1)) })
	<-writing
	const waiters = 50
	for v := range waiters {
		wg.Go(func() {
			if out := l.Append(newEntry("waiter", v+1))[0]; out.Err != nil {
				t.Error(out.Err)
			}
		})
	}
	awaitInFlight(t, l, waiters+1)
	close(goOn)
	wg.Wait()
	if n := f.syncs.Load(); n != 2 {
		t.Errorf("%d fsyncs for one batch of 1 and one of %d", n, waiters)
	}
	ledgertest.Check(t, path, waiters+1)
}

func TestAFullDiskIsTemporary(t *testing.T) {
	t.Parallel()
	for name, short := range map[string]func(p []byte) int{
		"nothing written":         func([]byte) int { return 0 },
		"half written":            func(p []byte) int { return len(p) / 2 },
		"all but the line feed":   func(p []byte) int { return len(p) - 1 },
		"all written, then error": func(p []byte) int { return len(p) },
	} {
		for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
			t.Run(name+" "+cause.Error(), func(t *testing.T) {
				l, f, path := openFaulty(t)
				mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
				f.write = func(p []byte) (int, error) { return short(p), &os.PathError{Op: "write", Path: path, Err: cause} }
				for range 3 {
					var full *ledger.FullError
					if out := l.Append(newEntry("a", 2), newEntry("a", 3))[1]; !errors.As(out.Err, &full) || full.RetryAfter() <= 0 || out.Seq != 0 {
						t.Fatalf("no room: %+v", out)
					}
					ledgertest.Check(t, path, 1)
				}
				if l.Full() == nil {
					t.Error("Full = nil on a full disk")
				}
				mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1, Duplicate: true})
				f.write = nil
				mustAppend(t, l, newEntry("a", 3), ledger.Outcome{Seq: 2})
				mustAppend(t, l, newEntry("a", 2), ledger.Outcome{Seq: 3})
				if l.Full() != nil || l.Fault() != nil {
					t.Errorf("still %v, %v", l.Full(), l.Fault())
				}
				ledgertest.Check(t, path, 3)
			})
		}
	}
}

func TestFaultsAreFinal(t *testing.T) {
	t.Parallel()
	eio := &os.PathError{Op: "x", Err: syscall.EIO}
	for name, c := range map[string]struct {
		inject func(f *faultyFile, path string)
		kept   int // entries in the file afterwards
	}{
		"fsync fails and nothing is there": {func(f *faultyFile, path string) {
			f.sync = func() error { return errors.Join(eio, os.Truncate(path, f.synced.Load())) }
		}, 1},
		"fsync fails and all is there": {func(f *faultyFile, _ string) { f.sync = func() error { return eio } }, 2},
		"fsync has no room":            {func(f *faultyFile, _ string) { f.sync = func() error { return syscall.ENOSPC } }, 2},
		"write fails":                  {func(f *faultyFile, _ string) { f.write = func([]byte) (int, error) { return 7, eio } }, 1},
		"no room and no way back": {func(f *faultyFile, _ string) {
			f.write = func([]byte) (int, error) { return 7, syscall.ENOSPC }
			f.truncate = func(int64) error { return eio }
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l, f, path := openFaulty(t)
			mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
			c.inject(f, path)
			var fault *ledger.FaultError
			if out := l.Append(newEntry("a", 2))[0]; !errors.As(out.Err, &fault) || out.Seq != 0 {
				t.Fatalf("append: %+v", out)
			}
			syncs := f.syncs.Load()
			f.sync, f.write, f.truncate = nil, nil, nil
			for v := 1; v <= 3; v++ { // known ones too
				if out := l.Append(newEntry("a", v))[0]; !errors.As(out.Err, &fault) {
					t.Fatalf("acknowledged after the fault: %+v", out)
				}
			}
			if f.syncs.Load() != syncs {
				t.Error("a failed fsync was retried")
			}
			select {
			case <-l.Failed():
			default:
				t.Error("Failed is not closed")
			}
			mustClose(t, l)
			l = mustOpen(t, ledger.Config{Path: path})
			if l.Len() != int64(c.kept) {
				t.Errorf("%d entries after a restart, want %d", l.Len(), c.kept)
			}
			for v := 1; v <= 3; v++ {
				mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v), Duplicate: v <= c.kept})
			}
			ledgertest.Check(t, path, 3)
		})
	}
}

// A batch that waits while the previous fsync fails must not be written.
func TestAFaultEndsTheWait(t *testing.T) {
	t.Parallel()
	l, f, path := openFaulty(t)
	syncing, goOn := make(chan struct{}), make(chan struct{})
	f.sync = func() error {
		close(syncing)
		<-goOn
		return errDisk
	}
	var wg sync.WaitGroup
	expectFault := func(v int) {
		var fault *ledger.FaultError
		if out := l.Append(newEntry("a", v))[0]; !errors.As(out.Err, &fault) {
			t.Errorf("version %d: %+v", v, out)
		}
	}
	wg.Go(func() { expectFault(1) })
	<-syncing
	wg.Go(func() { expectFault(1) }) // the same event again
	wg.Go(func() { expectFault(2) })
	awaitInFlight(t, l, 2)
	close(goOn)
	wg.Wait()
	ledgertest.Check(t, path, 1) // in the file, not acknowledged
}

func TestTheLimitOfPendingBytes(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	syncing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l := mustOpen(t, ledger.Config{Path: path, MaxPending: 700, Wrap: func(f ledger.File) ledger.File {
		return &faultyFile{File: f, sync: func() error {
			once.Do(func() { close(syncing); <-goOn })
			return nil
		}}
	}})
	var wg sync.WaitGroup
	wg.Go(func() { l.Append(newEntry("a", 1), newEntry("a", 2)) })
	<-syncing
	if out := l.Append(newEntry("a", 3))[0]; !errors.Is(out.Err, ledger.ErrBusy) {
		t.Errorf("above the limit: %+v", out)
	}
	close(goOn)
	wg.Wait()
	mustAppend(t, l, newEntry("a", 3), ledger.Outcome{Seq: 3})
	ledgertest.Check(t, path, 3)
}

// A known event whose line cannot be read is neither new nor known.
func TestUnreadableLineIsAFault(t *testing.T) {
	t.Parallel()
	l, f, _ := openFaulty(t)
	mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
	ledger.AwaitIndexed(l)
	f.read = func(int64) error { return errDisk }
	var fault *ledger.FaultError
	if out := l.Append(newEntry("a", 1))[0]; !errors.As(out.Err, &fault) || !errors.Is(out.Err, errDisk) {
		t.Fatalf("%+v", out)
	}
	if l.Fault() == nil {
		t.Error("not a fault")
	}
}
