package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// What another program does to an open log is noticed before the next answer.
func TestALogThatIsChangedWhileItIsOpen(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"cut by one": func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.Truncate(path, info.Size()-1))
		},
		"extended": func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.Truncate(path, info.Size()+1))
		},
		"renamed":    func(path string) error { return os.Rename(path, path+".1") },
		"removed":    os.Remove,
		"replaced":   replace,
		"now a link": func(path string) error { return errors.Join(os.Rename(path, path+".1"), os.Symlink(path+".1", path)) },
		"rotated away": func(path string) error {
			return errors.Join(os.Rename(path, path+".1"), os.WriteFile(path, nil, 0o600))
		},
	} {
		for _, when := range []string{"before the write", "before the answer"} {
			t.Run(name+" "+when, func(t *testing.T) {
				l, f, path := openFaulty(t)
				mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
				if when == "before the write" {
					if err := change(path); err != nil {
						t.Fatal(err)
					}
				} else {
					f.sync = func() error { f.sync = nil; return change(path) }
				}
				var fault *ledger.FaultError
				for v := 2; v <= 3; v++ {
					if out := l.Append(newEntry("a", v))[0]; !errors.As(out.Err, &fault) || !strings.Contains(out.Err.Error(), "audit log") {
						t.Errorf("version %d: %+v, want a fault", v, out)
					}
				}
			})
		}
	}
}

// replace leaves the same bytes in another file.
func replace(path string) error {
	b, err := os.ReadFile(path)
	return errors.Join(err, os.Rename(path, path+".1"), os.WriteFile(path, b, 0o600))
}

func TestTheMarkIsWrittenBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	for v := 1; v <= 20; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
		log, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mark, err := os.ReadFile(path + ".acked"); err != nil || string(mark) != fmt.Sprintf("%020d\n", log.Size()) {
			t.Fatalf("entry %d answered, the log has %d bytes, the mark is %q: %v", v, log.Size(), mark, err)
		}
	}
}

func TestALogThatEndsBelowItsMark(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 4)
	mark := fmt.Appendf(nil, "%020d\n", len(log))
	for cut := starts[2]; cut < len(log); cut++ {
		for name, tail := range map[string]string{"cut": "", "torn": strings.Repeat("\x00", len(log)-cut)} {
			path := writeLog(t, append(bytes.Clone(log[:cut]), tail...))
			if err := os.WriteFile(path+".acked", mark, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := ledger.Open(context.Background(), ledger.Config{Path: path})
			var damage *ledger.DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), fmt.Sprintf("%d bytes of it were acknowledged", len(log))) || damage.Byte > int64(cut) {
				t.Fatalf("%s at %d: %v", name, cut, err)
			}
			if now, err := os.ReadFile(path); err != nil || len(now) != cut+len(tail) {
				t.Fatalf("%s at %d: the damaged log was changed: %v", name, cut, err)
			}
		}
	}
}

// The bytes above the mark may be of a write that nobody was answered for.
func TestAnUnfinishedWriteAboveTheMark(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 4)
	for cut := starts[3]; cut < len(log); cut++ {
		path := writeLog(t, log[:cut])
		if err := os.WriteFile(path+".acked", fmt.Appendf(nil, "%020d\n", starts[3]), 0o600); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, ledger.Config{Path: path})
		if l.Len() != 3 || (l.Recovered().Torn == nil) != (cut == starts[3]) {
			t.Fatalf("cut at %d: %d entries, torn %+v", cut, l.Len(), l.Recovered().Torn)
		}
		mustAppend(t, l, newEntry("a", 4), ledger.Outcome{Seq: 4})
		mustClose(t, l)
	}
}

func TestAMarkThatSaysNothing(t *testing.T) {
	t.Parallel()
	log, _ := wholeLog(t, 3)
	for name, mark := range map[string]string{
		"none": "", "zeros": strings.Repeat("\x00", 21), "text": "hello\n", "half": "0000000000\n", "negative": "-0000000000000000001\n", "two": strings.Repeat("00000000000000009999\n", 2),
	} {
		t.Run(name, func(t *testing.T) {
			path := writeLog(t, log[:len(log)-7])
			if err := os.WriteFile(path+".acked", []byte(mark), 0o600); err != nil {
				t.Fatal(err)
			}
			l := mustOpen(t, ledger.Config{Path: path})
			mustAppend(t, l, newEntry("a", 3), ledger.Outcome{Seq: 3})
			mustClose(t, l)
			mustOpen(t, ledger.Config{Path: path})
		})
	}
}

func TestAMarkThatIsALink(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	if err := errors.Join(os.WriteFile(path+".victim", nil, 0o600), os.Symlink(path+".victim", path+".acked")); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(context.Background(), ledger.Config{Path: path}); err == nil || !strings.Contains(err.Error(), path+".acked is a symbolic link") {
		t.Errorf("Open = %v", err)
	}
}

// A mark that cannot be written is told once and stops nothing.
func TestAMarkThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	var told []error
	l := mustOpen(t, ledger.Config{Path: path, OnMark: func(err error) { told = append(told, err) }})
	ledger.CloseMark(l)
	for v := 1; v <= 3; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	if len(told) != 1 || !strings.Contains(told[0].Error(), path+".acked") {
		t.Errorf("told %v, want one error with the path", told)
	}
	ledger.ReopenMark(t, l)
}
