package volumetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// mounts are the broken volumes that need permission to mount.
func mounts(t *testing.T) []func(*testing.T) Volume {
	t.Helper()
	if dir := t.TempDir(); syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k") != nil || syscall.Unmount(dir, 0) != nil {
		t.Log("no permission to mount: read-only and full file systems are not tested")
		return nil
	}
	return []func(*testing.T) Volume{readOnly, outOfInodes, outOfBlocks}
}

const options = "size=1m,nr_inodes=64,mode=0777"

func mount(t *testing.T) string {
	t.Helper()
	dir := Folder(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func readOnly(t *testing.T) Volume {
	dir := mount(t)
	remount := func(flags uintptr) func(*testing.T) {
		return func(t *testing.T) {
			if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, options); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Volume{"read-only", dir, "read-only file system", remount(syscall.MS_RDONLY), remount(0)}
}

// outOfInodes refuses new files, as a full disk usually does.
func outOfInodes(t *testing.T) Volume {
	dir := mount(t)
	return full("out of inodes", dir, func(i int) error { return os.WriteFile(fmt.Sprint(dir, "/filler", i), nil, 0o600) })
}

// outOfBlocks accepts a new file but no content.
func outOfBlocks(t *testing.T) Volume {
	dir := mount(t)
	return full("out of blocks", dir, func(i int) error { return os.WriteFile(fmt.Sprint(dir, "/filler", i), make([]byte, 64<<10), 0o600) })
}

func full(name, dir string, fill func(i int) error) Volume {
	fillUp := func(t *testing.T) {
		for i := 0; ; i++ {
			err := fill(i)
			if errors.Is(err, syscall.ENOSPC) {
				return
			}
			if err != nil || i > 100 {
				t.Fatalf("fill the volume: %v after %d files", err, i)
			}
		}
	}
	empty := func(t *testing.T) {
		files, err := filepath.Glob(dir + "/filler*")
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Volume{name, dir, "no space left on device", fillUp, empty}
}
