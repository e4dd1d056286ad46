package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
)

// A callFault is a system call of the auditor that strace lets fail.
type callFault struct {
	name   string
	file   string // of the log's folder; as the call names it
	inject string // as strace takes it, which counts the calls of each thread
	says   string // in the log
	exit   int    // status when the fault ends the process, 0 when it goes on
	filled bool   // the log has entries of an earlier start
	start  bool   // the start fails
}

// Each call that the log, its mark, its tree and its key rest on fails once, in the
// real program: what was answered is there, the log says what happened, and the next
// start mends it.
func TestSystemCallsFail(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("%v: install strace (apt install strace); it makes system calls fail", err)
	}
	for _, f := range []callFault{
		{name: "fsync of the log", file: "audit.log", inject: "fsync,fdatasync:error=EIO:when=2+", says: "input/output error", exit: 1},
		{name: "write of the log", file: "audit.log", inject: "write:error=EIO:when=2+", says: "input/output error", exit: 1},
		{name: "no space for the log", file: "audit.log", inject: "write:error=ENOSPC:when=2..3", says: "no space left on device"},
		{name: "quota of the log", file: "audit.log", inject: "write:error=EDQUOT:when=2", says: "quota exceeded"},
		{name: "interrupted write", file: "audit.log", inject: "write:error=EINTR:when=2+3"},
		{name: "interrupted fsync", file: "audit.log", inject: "fsync,fdatasync:error=EINTR:when=2+3"},
		{name: "write of the mark", file: "audit.log.acked", inject: "pwrite64:error=EIO:when=2..3", says: "input/output error"},
		{name: "fsync of the mark", file: "audit.log.acked", inject: "fsync,fdatasync:error=EIO:when=1", says: "input/output error"},
		{name: "write of a checkpoint", file: "checkpoint.next", inject: "write:error=ENOSPC:when=1", says: "no space left on device", filled: true},
		{name: "fsync of a checkpoint", file: "checkpoint.next", inject: "fsync:error=EIO:when=1", says: "input/output error", filled: true},
		{name: "rename of a checkpoint", file: "checkpoint.next", inject: "renameat,renameat2:error=EIO:when=1", says: "input/output error", filled: true},
		{name: "rename of a tile", file: "next", inject: "renameat,renameat2:error=EIO:when=1", says: "input/output error"},
		{name: "read at the start", file: "audit.log", inject: "pread64:error=EIO:when=1+", says: "input/output error", exit: 1, filled: true, start: true},
		{name: "fsync of the first checkpoint", file: "checkpoint.next", inject: "fsync:error=EIO:when=1", says: "input/output error", exit: 1, start: true},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.run(t)
		})
	}
}

func (f callFault) run(t *testing.T) {
	events := 100 // more writes and fsyncs than threads that may do them
	dir := t.TempDir()
	path, trace := filepath.Join(dir, "audit.log"), filepath.Join(t.TempDir(), "trace")
	p := &poster{acked: map[string]int64{}}
	if f.filled {
		first, url := spawn(t, path)
		p.post(t, url, events)
		if status := first.Terminate(); status != 0 {
			t.Fatalf("exit %d", status)
		}
		events *= 2
	}
	call, _, _ := bytes.Cut([]byte(f.inject), []byte(":"))
	// With -D the auditor, not strace, is the child of this test. A call names a file by
	// its whole path or by that below its folder.
	cmd := exec.Command("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", trace, "-P", filepath.Join(dir, f.file), "-P", f.file,
		"-e", "trace="+string(call), "-e", "inject="+f.inject, os.Args[0])
	cmd.Env = []string{"AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH=" + path, "LOG_FORMAT=json"}
	process := apptest.Exec(t, cmd)
	if !f.start {
		url, _ := process.URLs(t)
		p.post(t, url, events)
	}
	if f.says != "" {
		process.Await(t, f.says)
	}
	status := 0
	if f.exit != 0 {
		status = process.Exit()
	} else {
		status = process.Terminate()
	}
	if status != f.exit {
		t.Errorf("exit %d, want %d", status, f.exit)
	}
	if log := process.Log(); strings.Contains(log, "restore it") {
		t.Errorf("a disk that fails is taken for a damaged log:\n%s", log)
	}
	if text, err := os.ReadFile(trace); err != nil || !bytes.Contains(text, []byte("(INJECTED)")) {
		t.Fatalf("no call failed: %v\n%s", err, text)
	}

	again, url := spawn(t, path)
	p.post(t, url, events) // the bridge delivers again what was not answered
	if len(p.acked) != events {
		t.Errorf("%d of %d events are in the log after the restart", len(p.acked), events)
	}
	apptest.Await(t, "the tree is there again", func() bool { status, _ := tool(t, app.Verify(), path); return status == 0 })
	if status := again.Terminate(); status != 0 {
		t.Errorf("the next start exits with %d", status)
	}
	for _, line := range ledgertest.Check(t, path, events) {
		if p.acked[line.ID] != line.Seq {
			t.Errorf("%s was answered with %d and stands at %d", line.ID, p.acked[line.ID], line.Seq)
		}
	}
}

// A poster knows what was answered, over all starts of an auditor.
type poster struct {
	mu    sync.Mutex
	acked map[string]int64
}

// post posts the events, each until it is answered or the auditor is gone.
func (p *poster) post(t *testing.T, url string, events int) {
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	var posting sync.WaitGroup
	for w := range 4 {
		posting.Go(func() {
			for n := w; n < events; n += 4 {
				if !p.one(t, client, url, fmt.Sprint(n)) {
					return
				}
			}
		})
	}
	posting.Wait()
}

func (p *poster) one(t *testing.T, client *http.Client, url, id string) bool {
	for {
		status, seq, err := postOne(client, url, id)
		if err != nil {
			return false
		}
		if status == http.StatusServiceUnavailable {
			continue // as the bridge does, only sooner
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		was, known := p.acked[id]
		if status != 201 && status != 200 || known && (status != 200 || seq != was) {
			t.Errorf("%s: %d, entry %d; before it was entry %d", id, status, seq, was)
		}
		p.acked[id] = seq
		return true
	}
}
