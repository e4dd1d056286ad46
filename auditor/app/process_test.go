package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/volume/volumetest"
)

// spawn starts the auditor as a process and waits until it listens.
func spawn(t *testing.T, path string, env ...string) (p *apptest.Process, url string) {
	t.Helper()
	p = selfProcess(t, path, env...)
	url, _ = p.URLs(t)
	return p, url
}

func selfProcess(t *testing.T, path string, env ...string) *apptest.Process {
	t.Helper()
	return apptest.Self(t, append(env, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH="+path, "LOG_FORMAT=json")...)
}

// Every event answered with 201 is in the log once, however often the auditor is
// killed, and even when it is posted again.
func TestKillUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	acked := map[string]int64{}
	var mu sync.Mutex
	for round := range 5 {
		p, url := spawn(t, path)
		transport := &http.Transport{MaxIdleConnsPerHost: 16}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for v := 1; ; v++ {
					id := fmt.Sprintf("%d-%d", w, v)
					status, seq, err := postOne(client, url, id)
					if err != nil {
						return
					}
					mu.Lock()
					was, known := acked[id]
					if status != 201 && status != 200 || known && (was != seq || status != 200) {
						t.Errorf("%s: %d, entry %d; before it was entry %d", id, status, seq, was)
					}
					acked[id] = seq
					if len(acked) >= (round+1)*400 {
						p.Signal(os.Kill)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
		if status := p.Exit(); status != -1 {
			t.Fatalf("exit status = %d, want -1: killed", status)
		}
		// The killed process may leave an unfinished line: the next start cuts it, so
		// the file is checked at the end.
	}
	p, _ := spawn(t, path)
	if status := p.Terminate(); status != 0 {
		t.Fatalf("exit status after SIGTERM = %d, want 0", status)
	}
	lines := ledgertest.Check(t, path, -1)
	for id, seq := range acked {
		if seq < 1 || seq > int64(len(lines)) || lines[seq-1].ID != id {
			t.Errorf("%s was acknowledged as entry %d and is missing", id, seq)
		}
	}
	t.Logf("%d entries, %d acknowledged", len(lines), len(acked))
}

func postOne(client *http.Client, url, id string) (status int, seq int64, err error) {
	body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"task-api","type":"task.updated","subject":"t","data":{"task_id":"t"}}`, id)
	resp, err := client.Post(url+"/", "application/cloudevents+json", strings.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	var a struct{ Seq int64 }
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return 0, 0, err
	}
	return resp.StatusCode, a.Seq, nil
}

func TestSecondProcessExits1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	first, _ := spawn(t, path)
	second := apptest.Self(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH="+path)
	if status := second.Exit(); status != 1 || second.Count(path) != 1 || second.Count("another auditor has the log open") != 1 {
		t.Errorf("second auditor: exit status %d, want 1 and a line that says why:\n%s", status, second.Log())
	}
	first.Signal(os.Interrupt)
	if status := first.Exit(); status != 0 {
		t.Errorf("first auditor: exit status after SIGINT = %d, want 0", status)
	}
}

// A replacement that starts while the old auditor stops waits for it, and goes on
// where it ended, whatever ended it.
func TestAReplacementWaitsForTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	old, url := spawn(t, path)
	for round, end := range []os.Signal{os.Interrupt, os.Kill} {
		volumetest.Call(t, "POST", url+"/", cloudEvent, body("task.updated", "t", round+1))
		next, base := spawn(t, path, "WAIT_FOR_LOCK=true")
		reason := "audit log: open " + path + ": another auditor has the log open"
		if status, _, body := volumetest.Call(t, "GET", base+"/readyz", "", ""); status != 503 || !strings.HasPrefix(body, reason) {
			t.Errorf("readyz: %d %q, want 503 with %s", status, body, reason)
		}
		if status, _, body := volumetest.Call(t, "GET", base+"/healthz", "", ""); status != 200 {
			t.Errorf("healthz: %d %q; a restart would not help", status, body)
		}
		if status, retryAfter, _ := volumetest.Call(t, "POST", base+"/", cloudEvent, body("task.created", "early", 1)); status != 503 || retryAfter != "1" {
			t.Errorf("a post while waiting: %d Retry-After %q, want 503", status, retryAfter)
		}
		old.Signal(end)
		volumetest.AwaitReady(t, base)
		next.Await(t, "data taken over, service ready")
		if loaded := fmt.Sprintf("Loaded %d previously seen events", round+1); next.Count(loaded) != 1 {
			t.Errorf("want %s:\n%s", loaded, next.Log())
		}
		old, url = next, base
	}
	stopped, _ := spawn(t, path, "WAIT_FOR_LOCK=true")
	for _, p := range []*apptest.Process{stopped, old} {
		if status := p.Terminate(); status != 0 {
			t.Errorf("exit status after SIGTERM = %d, want 0:\n%s", status, p.Log())
		}
	}
	ledgertest.Check(t, path, 2)
}
