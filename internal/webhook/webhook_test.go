package webhook_test

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/webhook"
)

var (
	oldKey = secret(1)
	newKey = secret(2)
)

func secret(b byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 24)) + "\n"
}

// write puts a new file in the old one's place, as Kubernetes and editors do.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, content string) (s *webhook.Secrets, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "secrets")
	write(t, path, content)
	s, err := webhook.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

func sign(t *testing.T, s *webhook.Secrets, id string, at time.Time, body string) http.Header {
	t.Helper()
	h := http.Header{}
	if err := s.Sign(h, id, at, []byte(body)); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestSignatureOfTheSpecification is the example that Standard Webhooks publishes.
func TestSignatureOfTheSpecification(t *testing.T) {
	s, _ := open(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	want := http.Header{
		"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	got := sign(t, s, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), `{"test": 2432232314}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// The id is part of what receivers store, so it may never change.
func TestIDIsOfSourceAndID(t *testing.T) {
	if got := webhook.ID("task-api", "0190"); got != "msg_ccdff1d42702331c29c3174e21c89c67" {
		t.Errorf("ID = %s", got)
	}
	if webhook.ID("a", "bc") == webhook.ID("ab", "c") {
		t.Error("two events have one id")
	}
}

func TestVerify(t *testing.T) {
	s, _ := open(t, "# rotation of May\n\n"+oldKey+newKey)
	onlyOld, _ := open(t, oldKey)
	onlyNew, _ := open(t, newKey)
	foreign, _ := open(t, secret(3))
	now := time.Now()
	edit := func(h http.Header, name, value string) http.Header { h.Set(name, value); return h }
	for name, c := range map[string]struct {
		header http.Header
		says   string // "" when it is good
	}{
		"old key":       {sign(t, onlyOld, "m", now, "body"), ""},
		"new key":       {sign(t, onlyNew, "m", now, "body"), ""},
		"both keys":     {sign(t, s, "m", now, "body"), ""},
		"among others":  {edit(sign(t, onlyOld, "m", now, "body"), "Webhook-Signature", "v1,b3RoZXI= "+sign(t, onlyOld, "m", now, "body").Get("Webhook-Signature")), ""},
		"unknown key":   {sign(t, foreign, "m", now, "body"), "any known secret"},
		"other body":    {sign(t, onlyOld, "m", now, "other"), "any known secret"},
		"other id":      {edit(sign(t, onlyOld, "m", now, "body"), "Webhook-Id", "x"), "any known secret"},
		"later time":    {edit(sign(t, onlyOld, "m", now, "body"), "Webhook-Timestamp", "1"), "clock"},
		"unsigned":      {http.Header{}, "webhook-signature"},
		"too old":       {sign(t, onlyOld, "m", now.Add(-6*time.Minute), "body"), "clock"},
		"from tomorrow": {sign(t, onlyOld, "m", now.Add(24*time.Hour), "body"), "clock"},
		"no number":     {edit(sign(t, onlyOld, "m", now, "body"), "Webhook-Timestamp", "now"), "seconds"},
	} {
		if err := s.Verify(c.header, []byte("body")); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestRotation: a sender signs with each secret of its file, so the two ends may
// change theirs in any order without a refused post between.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sender, senderPath := open(t, oldKey)
		receiver, receiverPath := open(t, oldKey)
		for _, step := range []struct{ path, content string }{
			{receiverPath, oldKey + newKey}, {senderPath, oldKey + newKey}, {receiverPath, newKey}, {senderPath, newKey},
		} {
			write(t, step.path, step.content)
			time.Sleep(time.Second) // of the bubble: a file is looked at once a second
			if err := receiver.Verify(sign(t, sender, "m", time.Now(), "body"), []byte("body")); err != nil {
				t.Errorf("after a step: %v", err)
			}
		}
	})
}

// TestAnEmptiedFileRevokes on both ends: the receiver accepts nothing, and the
// sender would rather post nothing than something unsigned.
func TestAnEmptiedFileRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := open(t, oldKey)
		good := sign(t, s, "m", time.Now(), "body")
		write(t, path, "")
		time.Sleep(time.Second)
		if err := s.Verify(good, []byte("body")); err == nil {
			t.Error("a signature under a revoked secret was accepted")
		}
		h := http.Header{}
		if err := s.Sign(h, "m", time.Now(), []byte("body")); err == nil || !strings.Contains(err.Error(), path) || len(h) > 0 {
			t.Errorf("Sign = %v with headers %v, want an error that names the file and no headers", err, h)
		}
		if s.Err() == nil {
			t.Error("Err = nil")
		}
	})
}

func TestBadSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "\n# nothing\n", "prefix": "abc\n", "base64": "whsec_!\n", "short": "whsec_AAAA\n"} {
		path := filepath.Join(dir, name)
		write(t, path, content)
		if err := webhook.Check(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := webhook.Open(filepath.Join(dir, "none"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a missing file was taken")
	}
}
