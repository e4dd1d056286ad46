package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestADiskIsFullUntilItIsFreed(t *testing.T) {
	to := t.TempDir()
	d, err := newDisk(filepath.Join(t.TempDir(), "disk"), 4<<20)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), t.Name()) {
		t.Error("the mount has a path: it would be left behind")
	}
	log, err := os.Create(filepath.Join(d.path, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.fill(); err != nil {
		t.Fatal(err)
	}
	if n, err := log.WriteString("no room"); n > 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk took %d bytes, %v", n, err)
	}
	if err := d.free(); err != nil {
		t.Fatal(err)
	}
	if _, err := log.WriteString("room"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(log.Close(), d.fill(), d.keep(to)); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(to, "audit.log"))
	if err != nil || string(kept) != "room" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if names, err := os.ReadDir(to); err != nil || len(names) != 1 {
		t.Errorf("kept %v, %v, want audit.log only", names, err)
	}
}
