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

// A removed file and one with a mistake both revoke what the file held.
func TestAFileThatCannotBeUsedRevokesItsContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		check(t, os.WriteFile(path, []byte("good"), 0o600))
		o := open(t, path)

		check(t, os.Remove(path))
		o.expect("", path+": no such file or directory")
		o.logged("level=ERROR")
		o.replace("bad s3cret")
		o.expect("", path+": line 1: want a good secret")
		o.logged("level=ERROR")
		check(t, os.Remove(path))
		check(t, os.Mkdir(path, 0o700))
		o.expect("", path+": is a directory")
		o.logged("level=ERROR")
		check(t, os.Remove(path))
		o.replace("good")
		o.expect("good", "")
		o.logged("level=INFO")
		check(t, os.Chmod(path, 0o660)) // without a new modification time
		o.expect("", "(mode 0660); run chmod go-w")
		o.logged("level=ERROR")
		check(t, os.Chmod(path, 0o600))
		o.expect("good", "")
		o.logged("level=INFO")
	})
}

// TestModes: the links of a mounted Secret lead to a file of mode 0644, or 0440
// with fsGroup. Links themselves always have mode 0777.
func TestModes(t *testing.T) {
	for mode, c := range map[os.FileMode]struct{ refused, warned bool }{
		0o600: {}, 0o400: {}, 0o440: {}, 0o640: {},
		0o644: {warned: true}, 0o444: {warned: true},
		0o660: {refused: true}, 0o620: {refused: true}, 0o602: {refused: true}, 0o666: {refused: true},
	} {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, "data"), []byte("good"), 0o600))
		check(t, os.Chmod(filepath.Join(dir, "data"), mode))
		path := filepath.Join(dir, "secret")
		check(t, os.Symlink("data", path))
		var log bytes.Buffer
		_, err := secretfile.Open(path, parse, slog.New(slog.NewTextHandler(&log, nil)))
		if (err != nil) != c.refused || c.refused && !strings.Contains(err.Error(), path+": can be written by its group or others") {
			t.Errorf("mode %o: Open = %v, want refused %v", mode, err, c.refused)
		}
		if warned := strings.Contains(log.String(), "level=WARN"); warned != c.warned {
			t.Errorf("mode %o: warned = %v, want %v: %s", mode, warned, c.warned, log.String())
		}
		log.Reset()
		if _, err := secretfile.OpenPublic(path, parse, slog.New(slog.NewTextHandler(&log, nil))); (err != nil) != c.refused || log.Len() > 0 {
			t.Errorf("mode %o: OpenPublic = %v, log %q; want refused %v and no warning", mode, err, log.String(), c.refused)
		}
	}
}

func TestAPipeAndAHugeFileAreRefused(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	check(t, os.WriteFile(huge, make([]byte, 1<<20+1), 0o600))
	for path, cause := range map[string]string{os.DevNull: "is not a regular file", huge: "is larger than 1024 KiB"} {
		if err := secretfile.Check(path, parse); err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("Check(%s) = %v, want %q", path, err, cause)
		}
	}
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
