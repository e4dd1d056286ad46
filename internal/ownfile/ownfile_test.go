package ownfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/taskwire/taskwire/internal/ownfile"
)

// plant puts what the name says at path, in place of a file of the program.
func plant(t *testing.T, what, path string) {
	t.Helper()
	write := func(p string, mode fs.FileMode) error {
		return errors.Join(os.WriteFile(p, []byte("x"), 0o600), os.Chmod(p, mode)) // without the umask
	}
	var err error
	switch what {
	case "own":
		err = write(path, 0o600)
	case "of the group":
		err = write(path, 0o660)
	case "readable by others":
		err = write(path, 0o664)
	case "writable by others":
		err = write(path, 0o666)
	case "link":
		err = errors.Join(write(path+".target", 0o600), os.Symlink(path+".target", path))
	case "link to nothing":
		err = os.Symlink(path+".target", path)
	case "pipe":
		err = syscall.Mkfifo(path, 0o600)
	case "folder":
		err = os.Mkdir(path, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatMayStandInPlaceOfAFile(t *testing.T) {
	for what, reason := range map[string]string{
		"nothing": "", "own": "", "of the group": "", "readable by others": "",
		"writable by others": "chmod o-w",
		"link":               "symbolic link",
		"link to nothing":    "symbolic link",
		"pipe":               "not a regular file",
		"folder":             "is a directory",
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			plant(t, what, path)
			checked := ownfile.Check(path)
			f, opened := ownfile.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
			if opened == nil {
				opened = f.Close()
			}
			for call, err := range map[string]error{"Check": checked, "Open": opened} {
				if (err != nil) != (reason != "") || err != nil && (!strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), path)) {
					t.Errorf("%s = %v, want %q", call, err, reason)
				}
			}
			if _, err := os.Stat(path + ".target"); what == "link to nothing" && err == nil {
				t.Error("a file was created behind the link")
			}
		})
	}
}

func TestAFolderThatOthersMayWrite(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[fs.FileMode]bool{0o700: true, 0o770: true, 0o755: true, 0o777: false, 0o777 | fs.ModeSticky: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := ownfile.CheckFolder(dir); (err == nil) != ok {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
}
