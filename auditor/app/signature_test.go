package app_test

import (
	"bytes"
	"crypto/ed25519"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
)

// With keys the log has what their owners have signed and nothing else of them. Its
// lines can be verified without the auditor.
func TestTheProducersWord(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	pem, err := eventsign.MarshalPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := eventsign.OpenSigner(write("key.pem", pem), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	known := []byte("task-api " + eventsign.PublicText(private.Public().(ed25519.PublicKey)) + "\n")
	settings := map[string]string{"AUDIT_LOG_PATH": filepath.Join(dir, "audit.log"), "EVENT_VERIFY_KEYS_FILE": write("keys", known)}
	a := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, settings), t: t, path: settings["AUDIT_LOG_PATH"]}
	sign := func(body string) string {
		signed, err := signer.Sign([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}

	one, two := body("task.created", "a", 1), body("task.created", "b", 1)
	a.expect(a.post(one), 403, "the event's signature is missing")
	a.expect(a.post(strings.Replace(sign(one), `"pending"`, `"completed"`, 1)), 403, "not that of this event")
	a.expect(a.post(sign(one)), 201, `"seq":1`)
	a.expect(a.post(sign(one)), 200, `"duplicate":true`)

	// In binary form, and with data that is spread over lines.
	e, err := event.Parse([]byte(sign(strings.Replace(two, `"title":`, "\n\"title\": ", 1))))
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("POST", a.URL+"/", bytes.NewReader(e.Data()))
	for _, name := range event.Attributes(e) {
		text, _ := event.Attribute(e, name)
		if name == "datacontenttype" {
			req.Header.Set("Content-Type", text)
			continue
		}
		req.Header.Set("ce-"+name, text)
	}
	a.expect(a.do(req), 201, `"seq":2`)

	// In a batch each event has its own answer.
	three, four, other := body("task.created", "c", 1), body("task.created", "d", 1), strings.Replace(body("x", "e", 1), `"task-api"`, `"somebody"`, 1)
	batch := "[" + strings.Join([]string{three, sign(four), other, sign(three)}, ",") + "]"
	req, _ = http.NewRequest("POST", a.URL+"/", strings.NewReader(batch))
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	got := a.do(req)
	a.expect(got, 403, `"status":403`)
	if n := strings.Count(got.Body, `"status":201`); n != 3 || strings.Index(got.Body, "403") > strings.Index(got.Body, "201") {
		t.Errorf("batch: %s", got.Body)
	}
	a.expect(a.get(a.OpsURL+"/metrics"), 200, `taskwire_audit_signature_failures_total{reason="missing"} 2`)
	a.expect(a.get(a.OpsURL+"/metrics"), 200, `taskwire_audit_signature_failures_total{reason="wrong"} 1`)

	write("keys", nil)
	apptest.Await(t, "the auditor is not ready", func() bool {
		status, text := a.Get(t, a.OpsURL+"/readyz")
		return status == 503 && strings.Contains(text, "EVENT_VERIFY_KEYS_FILE: ") && strings.Contains(text, "has no keys")
	})
	a.expect(a.post(sign(body("task.created", "f", 1))), 403, "cannot be verified")

	ledgertest.Check(t, a.path, 5)
	log, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := eventsign.ParseKeys(known)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if err := keys.VerifyLine(line); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if bad := bytes.Replace(line, []byte("pending"), []byte("pendinG"), 1); bytes.Contains(line, []byte("task-api")) && keys.VerifyLine(bad) == nil {
			t.Errorf("passes: %s", bad)
		}
	}
}
