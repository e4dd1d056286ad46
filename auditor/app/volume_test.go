package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/volume/volumetest"
)

const cloudEvent = "application/cloudevents+json"

// auditorOn starts a process that keeps its log on the volume.
func auditorOn(t *testing.T, path string) *apptest.Process {
	t.Helper()
	return volumetest.Start(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_LOG_PATH="+path, "LOG_FORMAT=json")
}

// A volume that cannot be used does not stop the auditor: it reports why, accepts
// nothing, and continues by itself once the volume is fixed.
func TestAVolumeThatCannotBeUsedYet(t *testing.T) {
	volumetest.Each(t, func(t *testing.T, v volumetest.Volume) {
		path := filepath.Join(v.Dir, "audit.log")
		for entries, loaded := range []string{"Loaded 0 previously seen events", "Loaded 1 previously seen events"} {
			if !holdsUp(v, entries) {
				break
			}
			v.Break(t)
			p := auditorOn(t, path)
			base, ops := p.URLs(t)
			reason := "audit log: open " + path + ": " + v.Reason
			checkUnavailable(t, base, ops, reason)
			if status, _, body := volumetest.Call(t, "GET", base+"/entries", "", ""); status != 503 {
				t.Errorf("a query while waiting: %d %s", status, body)
			}
			v.Fix(t)
			volumetest.AwaitReady(t, base)
			p.Await(t, "volume available, service ready") // logged after /readyz changes
			if p.Count(loaded) != 1 || p.Count(`"msg":"volume unavailable, retrying every second","service":"auditor","err":"`+reason) != 1 {
				t.Errorf("want one line with the reason and then %s:\n%s", loaded, p.Log())
			}
			status, _, body := volumetest.Call(t, "POST", base+"/", cloudEvent, body("task.updated", "t", entries+1))
			if status != 201 || !strings.Contains(body, `"duplicate":false`) {
				t.Errorf("a post after that: %d %s", status, body)
			}
			if _, _, metrics := volumetest.Call(t, "GET", ops+"/metrics", "", ""); !strings.Contains(metrics, "\ntaskwire_audit_entries_total "+string(rune('1'+entries))) {
				t.Error("the metrics of the log are missing")
			}
			if status := p.Terminate(); status != 0 {
				t.Errorf("SIGTERM: exit %d", status)
			}
			ledgertest.Check(t, path, entries+1)
		}
	})
}

func checkUnavailable(t *testing.T, base, ops, reason string) {
	t.Helper()
	for _, at := range []string{base, ops} {
		if status, _, body := volumetest.Call(t, "GET", at+"/readyz", "", ""); status != 503 || body != reason+"\n" {
			t.Errorf("readyz: %d %q, want 503 with %s", status, body, reason)
		}
		if status, _, body := volumetest.Call(t, "GET", at+"/healthz", "", ""); status != 200 || body != "ok\n" {
			t.Errorf("healthz: %d %q; a restart would not help", status, body)
		}
	}
	status, retryAfter, answer := volumetest.Call(t, "POST", base+"/", cloudEvent, body("task.created", "early", 1))
	if status != 503 || retryAfter != "1" || !strings.Contains(answer, `"status":503`) || strings.Contains(answer, "audit.log") {
		t.Errorf("a post while waiting: %d %s Retry-After %q, want a 503 problem", status, answer, retryAfter)
	}
}

// holdsUp reports whether the volume prevents opening a log with that many
// entries: a full one does not, once the file exists. Its posts are answered 503.
func holdsUp(v volumetest.Volume, entries int) bool {
	return v.Name != "out of blocks" && (v.Name != "out of inodes" || entries == 0)
}

func TestAStopWhileWaitingForTheVolume(t *testing.T) {
	volumetest.Each(t, func(t *testing.T, v volumetest.Volume) {
		if holdsUp(v, 0) {
			volumetest.StopWhileWaiting(t, v, func() *apptest.Process { return auditorOn(t, filepath.Join(v.Dir, "audit.log")) })
		}
	})
}

// An error that waiting does not fix ends the auditor with one line.
func TestAnUnrecoverableErrorIsExit1(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none", "audit.log"): "folder " + filepath.Join(dir, "none") + ": no such file or directory; create it or set AUDIT_LOG_PATH",
		dir:                                     "is a directory",
	} {
		p := auditorOn(t, path)
		if status := p.Exit(); status != 1 || p.Count(want) != 1 || strings.Count(p.Log(), "\n") != 1 {
			t.Errorf("%s: exit %d, want 1 and one line with %s:\n%s", path, status, want, p.Log())
		}
	}
}

// Damage is found even after a wait, when the volume can be read.
func TestDamageFoundAfterTheWaitIsExit1(t *testing.T) {
	volumetest.Each(t, func(t *testing.T, v volumetest.Volume) {
		if !holdsUp(v, 3) {
			return
		}
		path := filepath.Join(v.Dir, "audit.log")
		if err := os.WriteFile(path, []byte("{\"seq\":2}\n{\"seq\":3}\nthis is not an audit log\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 65534, 65534); os.Getuid() == 0 && err != nil {
			t.Fatal(err)
		}
		v.Break(t)
		p := auditorOn(t, path)
		p.Await(t, "volume unavailable")
		v.Fix(t)
		if status := p.Exit(); status != 1 || p.Count("is damaged at byte") != 1 {
			t.Errorf("exit %d, want 1 with the damage:\n%s", status, p.Log())
		}
	})
}
