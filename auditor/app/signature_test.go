package app_test

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/pgtest"
)

// With keys the log has what their owners have signed and nothing else of them. Its
// lines can be verified without the auditor, whatever they are kept in.
func TestTheProducersWord(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		producersWord(t, map[string]string{"AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log")})
	})
	t.Run("database", func(t *testing.T) {
		producersWord(t, map[string]string{"AUDIT_DATABASE_URL": pgtest.Start(t).URL, "AUDIT_SIGNING_KEY_FILE": signingKey(t)})
	})
}

func producersWord(t *testing.T, settings map[string]string) {
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
	settings["EVENT_VERIFY_KEYS_FILE"] = write("keys", known)
	a := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, settings), t: t}
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

	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := app.Verify().Run(t.Context(), env.Map(settings), []string{"--event-keys", write("known", known)}, &out, &out); err != nil ||
		!strings.Contains(out.String(), "ok: 4 lines carry") || !strings.Contains(out.String(), "; 1 are of sources without a key") {
		t.Errorf("verify: %v\n%s", err, &out)
	}
	var log bytes.Buffer
	if err := app.Cat().Run(t.Context(), env.Map(settings), nil, &log, io.Discard); err != nil {
		t.Fatal(err)
	}
	if lines, err := ledgertest.Parse(log.Bytes()); err != nil || len(lines) != 5 {
		t.Errorf("%d lines, want 5: %v", len(lines), err)
	}
	keys, err := eventsign.ParseKeys(known)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log.Bytes()) {
		signed, err := keys.VerifyLine(line)
		if want := bytes.Contains(line, []byte("task-api")); err != nil || signed != want {
			t.Errorf("signed %v, want %v: %v: %s", signed, want, err, line)
		}
	}
}

// verify names the lines that their events' source has not signed.
func TestVerifyHoldsLinesToTheirProducers(t *testing.T) {
	dir := t.TempDir()
	key := func(seed byte) (*eventsign.Signer, string) {
		private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
		pem, err := eventsign.MarshalPrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "pem")
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		signer, err := eventsign.OpenSigner(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return signer, eventsign.PublicText(private.Public().(ed25519.PublicKey))
	}
	ours, public := key(7)
	theirs, _ := key(8)
	sign := func(s *eventsign.Signer, body string) string {
		signed, err := s.Sign([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	keys := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	known := keys("keys", "task-api "+public+"\n")

	// The auditor of this log has no keys: it stores what comes.
	logOf := func(bodies ...string) string {
		path := filepath.Join(t.TempDir(), "audit.log")
		a := start(t, path, nil)
		for _, b := range bodies {
			a.expect(a.post(b), 201, "seq")
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := strings.Replace(body("x", "e", 1), `"task-api"`, `"somebody"`, 1)
	one := func(v int) string { return body("task.updated", "t", v) }
	clean := logOf(one(1), one(2), sign(ours, one(3)), foreign, sign(ours, one(4)))
	forged := logOf(sign(ours, one(1)), sign(theirs, one(2)), strings.Replace(sign(ours, one(3)), `"pending"`, `"completed"`, 1), one(4), one(5),
		strings.Replace(sign(ours, one(6)), "ed25519:", "ed25519", 1))
	for _, c := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{clean}, 0, []string{"ok"}},
		{[]string{"--event-keys", known, clean}, 1, []string{
			`audit.log: line 1 (byte 0): event "`, `of source "task-api": the event's signature is missing; so are 1 more, the last is line 2`,
			"--signed-from 3", "without their source's signature"}},
		{[]string{"--event-keys", known, "--signed-from", "3", clean}, 0, []string{"ok: 2 lines carry the signature of their events' source; 1 are of sources without a key in " + known + ", the first is line 4"}},
		{[]string{"--event-keys", known, forged}, 1, []string{
			"audit.log: line 2 (byte ", `with a key that the event's source does not have ("ed25519:`,
			"audit.log: line 3 (byte ", "is not that of this event",
			"audit.log: line 4 (byte ", "is missing; so are 1 more, the last is line 5",
			"audit.log: line 6 (byte ", "is not ed25519:, a key id"}},
		{[]string{"--event-keys", keys("other", "taskapi "+public+"\n"), clean}, 1, []string{"has no key for the source of any line"}},
		{[]string{"--event-keys", keys("bad", "task-api x\n"), clean}, 2, []string{"bad: line 1: the key is not ed25519:"}},
		{[]string{"--event-keys", filepath.Join(dir, "none"), clean}, 2, []string{"--event-keys", "EVENT_VERIFY_KEYS_FILE"}},
		{[]string{"--signed-from", "3", clean}, 2, []string{"--signed-from needs --event-keys"}},
		{[]string{"--signed-from", "0", "--event-keys", known, clean}, 2, []string{"want the number of a line"}},
	} {
		status, out := tool(t, app.Verify(), c.args...)
		for _, want := range c.want {
			if status != c.status || !strings.Contains(out, want) {
				t.Errorf("verify %q: status %d, want %d and %q:\n%s", c.args, status, c.status, want, out)
			}
		}
		if c.status == 0 && strings.Contains(out, "(byte") {
			t.Errorf("verify %q says that it is ok and that it is not:\n%s", c.args, out)
		}
	}
}
