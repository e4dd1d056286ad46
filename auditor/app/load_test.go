package app_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/freeport"
)

// A stop while a large log is being read ends the process at once and cleanly:
// nothing was served yet.
func TestSIGTERMWhileTheLogIsRead(t *testing.T) {
	for entries := 50_000; ; entries *= 4 {
		path := filepath.Join(t.TempDir(), "audit.log")
		writeEntries(t, path, entries)
		status, output := terminateOnceBound(t, path)
		if strings.Contains(output, "previously seen events") && entries < 5_000_000 {
			continue // the log was read before the signal arrived
		}
		if status != 0 || !strings.Contains(output, "stopped while starting") || strings.Contains(output, "listening") {
			t.Errorf("%d entries: exit %d\n%s", entries, status, output)
		}
		return
	}
}

func writeEntries(t *testing.T, path string, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for seq := 1; seq <= n; seq++ {
		fmt.Fprintf(w, `{"seq":%d,"event_id":"e-%d","event_type":"task.updated","occurred_at":"2025-01-15T10:30:00Z","data":{"task_id":"t"},`+
			`"metadata":{"correlation_id":null,"source":"task-api"},"attributes":{"specversion":"1.0","subject":"t-%d","taskversion":1},"audited_at":"2025-01-15T10:30:01.000000Z"}`+"\n", seq, seq, seq)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// terminateOnceBound stops an auditor once it has its ports, which it binds
// before it reads the log.
func terminateOnceBound(t *testing.T, path string) (status int, output string) {
	t.Helper()
	addr := freeport.Addr()
	p := apptest.Self(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR="+addr, "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH="+path, "LOG_FORMAT=json")
	apptest.Await(t, "the auditor has its port", func() bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	})
	status = p.Terminate()
	return status, p.Log()
}
