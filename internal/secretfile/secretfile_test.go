package secretfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/internal/secretfile"
)

func parse(content []byte) (string, error) {
	s := strings.TrimSpace(string(content))
	if strings.HasPrefix(s, "bad") {
		return "", errors.New("line 1: want a good secret")
	}
	return s, nil
}

// opened is a file of secrets and its log, in a bubble with a clock of its own.
type opened struct {
	*secretfile.File[string]
	t    *testing.T
	path string
	log  *bytes.Buffer
}

func open(t *testing.T, path string) opened {
	t.Helper()
	var log bytes.Buffer
	f, err := secretfile.Open(path, parse, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return opened{f, t, path, &log}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file in the old one's place, as editors do.
func (o opened) replace(content string) {
	o.t.Helper()
	check(o.t, os.WriteFile(o.path+".new", []byte(content), 0o600))
	check(o.t, os.Rename(o.path+".new", o.path))
}

// expect looks a second later, several times. cause is part of Err, "" for nil.
func (o opened) expect(content, cause string) {
	o.t.Helper()
	for range 3 {
		time.Sleep(time.Second) // of the bubble
		if got := o.Get(); got != content {
			o.t.Errorf("content = %q, want %q", got, content)
		}
		if err := o.Err(); (err == nil) != (cause == "") || err != nil && !strings.Contains(err.Error(), cause) {
			o.t.Errorf("Err = %v, want %q", err, cause)
		}
	}
}

// logged wants the log to have these lines since the last call, no more.
func (o opened) logged(parts ...string) {
	o.t.Helper()
	lines := strings.Split(strings.TrimSuffix(o.log.String(), "\n"), "\n")
	if o.log.Len() == 0 {
		lines = nil
	}
	if len(lines) != len(parts) {
		o.t.Fatalf("%d lines logged, want %d:\n%s", len(lines), len(parts), o.log)
	}
	for i, part := range parts {
		if !strings.Contains(lines[i], part) {
			o.t.Errorf("logged %s, want %s", lines[i], part)
		}
	}
	o.log.Reset()
}

func TestTheFileIsReadAgainWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		check(t, os.WriteFile(path, []byte("one"), 0o600))
		o := open(t, path)
		o.expect("one", "")
		o.logged()

		o.replace("two")
		if got := o.Get(); got != "one" {
			t.Errorf("%q after less than a second, want the file to be looked at once a second", got)
		}
		o.expect("two", "")
		o.logged("secret file read again")

		check(t, os.WriteFile(path, []byte("three"), 0o600)) // in place
		o.expect("three", "")
		o.logged("secret file read again")
	})
}

// TestKubernetesSwapsALink: a mounted Secret is a link to ..data/NAME, ..data a
// link to a folder of one version, and an update renames a new ..data over the old.
func TestKubernetesSwapsALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		version := func(name, content string) {
			t.Helper()
			check(t, os.Mkdir(filepath.Join(dir, name), 0o700))
			check(t, os.WriteFile(filepath.Join(dir, name, "secret"), []byte(content), 0o600))
			check(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
			check(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		}
		version("..2026_01", "old")
		path := filepath.Join(dir, "secret")
		check(t, os.Symlink(filepath.Join("..data", "secret"), path))
		o := open(t, path)
		o.expect("old", "")

		version("..2026_02", "new") // of the same length
		check(t, os.RemoveAll(filepath.Join(dir, "..2026_01")))
		o.expect("new", "")
		o.logged("secret file read again")
	})
}

func TestTheLastGoodContentStaysInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		check(t, os.WriteFile(path, []byte("good"), 0o600))
		o := open(t, path)

		check(t, os.Remove(path))
		o.expect("good", path+": no such file or directory")
		o.logged("level=ERROR")
		o.replace("bad s3cret")
		o.expect("good", path+": line 1: want a good secret")
		o.logged("level=ERROR")
		check(t, os.Remove(path))
		check(t, os.Mkdir(path, 0o700))
		o.expect("good", path+": is a directory")
		o.logged("level=ERROR")
		check(t, os.Remove(path))
		o.replace("good")
		o.expect("good", "")
		o.logged("level=INFO")
	})
}

func TestReadersAndAWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		check(t, os.WriteFile(path, []byte("0"), 0o600))
		o := open(t, path)
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				last := ""
				for range 100 {
					time.Sleep(500 * time.Millisecond)
					got := o.Get()
					if got < last {
						t.Errorf("%q after %q", got, last)
					}
					last = got
					if err := o.Err(); err != nil {
						t.Errorf("Err = %v", err)
					}
				}
			})
		}
		for i := range 8 {
			time.Sleep(5 * time.Second)
			o.replace(string(rune('1' + i)))
		}
		readers.Wait()
		o.expect("8", "")
	})
}

func TestAFileThatCannotBeUsedIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	check(t, os.WriteFile(bad, []byte("bad"), 0o600))
	for path, cause := range map[string]string{
		filepath.Join(dir, "none"): "none: no such file or directory",
		bad:                        "bad: line 1: want a good secret",
		dir:                        ": is a directory",
	} {
		if _, err := secretfile.Open(path, parse, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("Open = %v, want %q", err, cause)
		}
		if err := secretfile.Check(path, parse); err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("Check = %v, want %q", err, cause)
		}
	}
	if err := secretfile.Check(filepath.Join(dir, "none"), parse); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check = %v, want one that is fs.ErrNotExist", err)
	}
}
