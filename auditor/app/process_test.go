package app_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// spawn starts the auditor as a process and waits until it listens.
func spawn(t *testing.T, path string) (cmd *exec.Cmd, url string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = []string{"AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH=" + path, "LOG_FORMAT=json"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewScanner(stderr)
	for out.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(out.Bytes(), &line) == nil && line.Msg == "listening" {
			go io.Copy(io.Discard, stderr) // ends with the process
			return cmd, "http://" + line.Addr
		}
		t.Log(out.Text())
	}
	t.Fatalf("the auditor did not start: %v", cmd.Wait())
	return nil, ""
}

// Every event answered with 201 is in the log once, however often the auditor is
// killed, and even when it is posted again.
func TestKillUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	acked := map[string]int64{}
	var mu sync.Mutex
	for round := range 5 {
		cmd, url := spawn(t, path)
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
						_ = cmd.Process.Kill()
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
		if err := cmd.Wait(); err == nil {
			t.Fatal("the auditor ended by itself")
		}
		// The killed process may leave an unfinished line: the next start cuts it, so
		// the file is checked at the end.
	}
	cmd, url := spawn(t, path)
	resp, err := http.Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("a clean stop: %v", err)
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
	cmd, _ := spawn(t, path)
	second := exec.Command(os.Args[0])
	second.Env = []string{"AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH=" + path}
	out, err := second.CombinedOutput()
	if second.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), path) || !strings.Contains(string(out), "another auditor has the log open") {
		t.Errorf("second auditor: %v\n%s", err, out)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("first auditor: %v", err)
	}
}
