package sink_test

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/internal/sink"
)

var (
	oldKey = bytes.Repeat([]byte{1}, 24)
	newKey = bytes.Repeat([]byte{2}, 32)
)

func secretLine(key []byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(key) + "\n"
}

func writeSecrets(t *testing.T, path, content string) {
	t.Helper()
	// As Kubernetes and editors do it: a new file takes the old one's place.
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func signed(key []byte, at time.Time, body string) *http.Request {
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", structured)
	r.Header.Set("Webhook-Id", "msg_1")
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	r.Header.Set("Webhook-Signature", "v1,b3RoZXI= "+sink.Sign(key, "msg_1", at, []byte(body)))
	return r
}

func answer(s *sink.Secrets, r *http.Request) (status int, body string) {
	w := httptest.NewRecorder()
	sink.Guard(s, sink.Handler(take)).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestSignatureOfTheSpecification is the example that Standard Webhooks publishes.
func TestSignatureOfTheSpecification(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sink.Sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("Sign = %s, want %s", got, want)
	}
}

func TestOnlySignedPostsPass(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	writeSecrets(t, path, "# rotation of May\n\n"+secretLine(oldKey)+secretLine(newKey))
	s, err := sink.OpenSecrets(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	edit := func(r *http.Request, f func(*http.Request)) *http.Request { f(r); return r }
	for name, c := range map[string]struct {
		request *http.Request
		status  int
		detail  string
	}{
		"old key":       {signed(oldKey, now, one), 201, ""},
		"new key":       {signed(newKey, now, one), 201, ""},
		"unknown key":   {signed(bytes.Repeat([]byte{3}, 24), now, one), 401, "any known secret"},
		"other body":    {edit(signed(oldKey, now, one), func(r *http.Request) { r.Body = http.NoBody }), 401, "any known secret"},
		"other id":      {edit(signed(oldKey, now, one), func(r *http.Request) { r.Header.Set("Webhook-Id", "x") }), 401, "any known secret"},
		"unsigned":      {edit(signed(oldKey, now, one), func(r *http.Request) { r.Header.Del("Webhook-Signature") }), 401, "webhook-signature"},
		"too old":       {signed(oldKey, now.Add(-6*time.Minute), one), 401, "clock"},
		"from tomorrow": {signed(oldKey, now.Add(24*time.Hour), one), 401, "clock"},
		"no number":     {edit(signed(oldKey, now, one), func(r *http.Request) { r.Header.Set("Webhook-Timestamp", "now") }), 401, "seconds"},
		"binary form":   {edit(signed(oldKey, now, one), func(r *http.Request) { r.Header.Set("Ce-Id", "1") }), 401, "structured"},
		"no event":      {signed(oldKey, now, "{}"), 400, "specversion"},
		"too large":     {signed(oldKey, now, strings.Repeat("x", sink.MaxBody+1)), 413, ""},
		"handshake":     {httptest.NewRequest("OPTIONS", "/", nil), 200, ""},
	} {
		if status, body := answer(s, c.request); status != c.status || !strings.Contains(body, c.detail) {
			t.Errorf("%s: %d %s, want %d with %q", name, status, body, c.status, c.detail)
		}
	}
	if status, _ := answer(nil, httptest.NewRequest("POST", "/", nil)); status != 400 {
		t.Errorf("without secrets = %d, want the handler's own 400", status)
	}
}

func TestSecretsAreReadAgainWhenTheFileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secrets")
		writeSecrets(t, path, secretLine(oldKey))
		var log bytes.Buffer
		s, err := sink.OpenSecrets(path, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		status := func(key []byte) int {
			time.Sleep(time.Second) // of the bubble: the file is checked once a second
			code, _ := answer(s, signed(key, time.Now(), one))
			return code
		}
		if got := status(newKey); got != 401 {
			t.Errorf("before the rotation = %d", got)
		}
		writeSecrets(t, path, secretLine(oldKey)+secretLine(newKey))
		if a, b := status(newKey), status(oldKey); a != 201 || b != 201 {
			t.Errorf("during the rotation = %d, %d", a, b)
		}
		writeSecrets(t, path, "whsec_bm90IGxvbmcgZW5vdWdo\n")
		if got := status(newKey); got != 201 || !strings.Contains(log.String(), "last good content stays in force") {
			t.Errorf("after a bad file = %d, log %s", got, log.String())
		}
		writeSecrets(t, path, secretLine(newKey))
		if a, b := status(newKey), status(oldKey); a != 201 || b != 401 {
			t.Errorf("after the rotation = %d, %d", a, b)
		}
		if strings.Contains(log.String(), "bm90IG") || strings.Contains(log.String(), strings.TrimSpace(secretLine(newKey))) {
			t.Errorf("a secret was logged: %s", log.String())
		}
	})
}

func TestBadSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "\n# nothing\n", "prefix": "abc\n", "base64": "whsec_!\n", "short": "whsec_AAAA\n"} {
		path := filepath.Join(dir, name)
		writeSecrets(t, path, content)
		if _, err := sink.OpenSecrets(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := sink.OpenSecrets(filepath.Join(dir, "none"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a missing file was taken")
	}
}
