package ledger_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// child is what the re-executed test binary does.
func child(role, path string) int {
	l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch role {
	case "load":
		err = childLoad(l)
	case "limit":
		err = childLimit(l, path)
	}
	if err = errors.Join(err, l.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startChild(t *testing.T, role, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), "LEDGER_TEST_CHILD="+role)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// childLoad appends for ever, including some events of earlier runs, and prints
// the id of each entry after it was acknowledged.
func childLoad(l *ledger.Ledger) error {
	start := int(l.Len())
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for v := max(1, start-20); ; v++ {
				e := newEntry(fmt.Sprintf("task-%d", w), v)
				if out := l.Append(e)[0]; out.Err != nil {
					return
				}
				// One write call per line, so that lines of several goroutines do not mix.
				if _, err := os.Stdout.WriteString(e.ID + "\n"); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	acked := make(map[string]bool)
	for round := range 6 {
		cmd, out := startChild(t, "load", path)
		for n := 0; n < 300+round*37 && out.Scan(); n++ {
			acked[out.Text()] = true
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for out.Scan() { // the lines before the kill count too
			acked[out.Text()] = true
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		l := mustOpen(t, ledger.Config{Path: path})
		t.Logf("round %d: %d entries, %d acknowledged, torn %+v", round, l.Len(), len(acked), l.Recovered().Torn)
		mustClose(t, l)
		found := make(map[string]bool)
		for _, line := range ledgertest.Check(t, path, -1) {
			found[line.ID] = true
		}
		for id := range acked {
			if !found[id] {
				t.Errorf("round %d: %s was acknowledged and is missing", round, id)
			}
		}
	}
}

// childLimit hits the file size limit at every offset of a line, and continues
// each time when the limit is raised.
func childLimit(l *ledger.Ledger, path string) error {
	lift := func(limit uint64) error {
		var r syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
			return err
		}
		r.Cur = limit
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
	}
	var fulls atomic.Int64
	for v := 1; v <= 400; v++ {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if err := lift(uint64(info.Size()) + uint64(v-1)); err != nil {
			return err
		}
		var full *ledger.FullError
		if out := l.Append(newEntry("a", v))[0]; errors.As(out.Err, &full) {
			fulls.Add(1)
		} else if out.Err != nil {
			return out.Err
		}
		if now, err := os.Stat(path); err != nil || l.Len() < int64(v) && now.Size() != info.Size() {
			return fmt.Errorf("%d bytes left behind: %w", now.Size()-info.Size(), err)
		}
		if err := lift(1 << 40); err != nil {
			return err
		}
		if out := l.Append(newEntry("a", v))[0]; out.Err != nil || out.Seq != int64(v) {
			return fmt.Errorf("version %d with room again: %+v", v, out)
		}
	}
	if fulls.Load() < 200 {
		return fmt.Errorf("the limit was hit only %d times", fulls.Load())
	}
	return nil
}

func TestFileSizeLimitAtEveryByte(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	cmd, out := startChild(t, "limit", path)
	for out.Scan() {
		t.Log(out.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, path, 400)
}
