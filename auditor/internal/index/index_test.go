package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fullDisk has no room while full is set.
type fullDisk struct {
	vfs.FS
	full atomic.Bool
}

func (d *fullDisk) err() error {
	if d.full.Load() {
		return &os.PathError{Op: "write", Err: syscall.ENOSPC}
	}
	return nil
}

func (d *fullDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.err(); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, c)
	return fullFile{f, d}, err
}

type fullFile struct {
	vfs.File
	disk *fullDisk
}

func (f fullFile) Write(b []byte) (int, error) {
	if err := f.disk.err(); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func replaceDisk(t *testing.T) *fullDisk {
	t.Helper()
	d := &fullDisk{FS: vfs.Default}
	disk = d
	t.Cleanup(func() { disk = vfs.Default })
	return d
}

func open(t *testing.T, dir string, d *fullDisk) *Index {
	t.Helper()
	x, err := Open(dir, Config{HasRoom: func() bool { return !d.full.Load() }, Changed: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

const perApply = 1000

// entries are those of one Apply, the n-th.
func entries(x *Index, n int) ([]Entry, Head) {
	list := make([]Entry, perApply)
	for i := range list {
		seq := int64(n*perApply + i + 1)
		list[i] = x.Identify([]byte(`"s"`), fmt.Appendf(nil, `"id-%d"`, seq), fmt.Appendf(nil, `"t-%d"`, seq), 1, true)
		list[i].Seq, list[i].At = seq, seq*100
	}
	last := list[perApply-1].Seq
	return list, Head{Seq: last, From: last * 100, End: last*100 + 100}
}

func check(t *testing.T, x *Index, upTo int64) {
	t.Helper()
	for seq := int64(1); seq <= upTo; seq += 7 {
		got, err := x.Find(x.HashEvent([]byte(`"s"`), fmt.Appendf(nil, `"id-%d"`, seq)))
		if err != nil || len(got) != 1 || got[0] != seq {
			t.Fatalf("entry %d: %v: %v", seq, got, err)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for " + what)
		}
	}
}

// A full disk lets Apply wait. The index answers meanwhile, and goes on when there
// is room.
func TestAFullDiskIsWaitedFor(t *testing.T) {
	d := replaceDisk(t)
	dir := filepath.Join(t.TempDir(), "index")
	x := open(t, dir, d)
	d.full.Store(true)
	const applies = 60
	var applied atomic.Int64
	done := make(chan error)
	go func() {
		var err error
		for n := 0; n < applies && err == nil; n++ {
			list, h := entries(x, n)
			if err = x.Apply(list, h); err == nil {
				applied.Add(1)
			}
		}
		done <- err
	}()
	await(t, "the full disk", x.Full)
	check(t, x, applied.Load()*perApply)
	select {
	case err := <-done:
		t.Fatalf("applied all of it to a full disk: %v", err)
	default:
	}
	d.full.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.Failure(), x.Close()); err != nil {
		t.Fatal(err)
	}
	x = open(t, dir, d)
	defer x.Close()
	if x.Head().Seq != applies*perApply {
		t.Fatalf("the head is %+v", x.Head())
	}
	check(t, x, applies*perApply)
}

// A stop on a full disk leaves an earlier state of the index, and says which.
func TestAStopOnAFullDisk(t *testing.T) {
	d := replaceDisk(t)
	dir := filepath.Join(t.TempDir(), "index")
	x := open(t, dir, d)
	done := make(chan error)
	go func() {
		var err error
		for n := 0; err == nil; n++ {
			d.full.Store(n > 25)
			list, h := entries(x, n)
			err = x.Apply(list, h)
		}
		done <- err
	}()
	await(t, "the full disk", x.Full)
	x.Stop()
	if err := <-done; !errors.Is(err, ErrStopped) {
		t.Fatalf("Apply = %v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	d.full.Store(false)
	x = open(t, dir, d)
	defer x.Close()
	t.Logf("the head is %d", x.Head().Seq)
	check(t, x, x.Head().Seq)
}
