package token_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/taskwire/taskwire/internal/token"
)

const (
	aliceToken = "alice-0123456789"
	bobToken   = "bob-0123456789abc"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestNames(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "tokens"), "# people\nalice "+aliceToken+"\n\nbob "+bobToken+"\nalice "+aliceToken+"-next\n")
	list, err := token.Open(path, discard())
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{aliceToken: "alice", aliceToken + "-next": "alice", bobToken: "bob", "": "", "alice": "", aliceToken + " ": "", "#": ""} {
		if got, ok := list.Name(given); got != want || ok != (want != "") {
			t.Errorf("Name(%q) = %q, %v, want %q", given, got, ok, want)
		}
	}
}

func TestTokensWithoutNames(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "token"), aliceToken+"\n"+bobToken+"\n")
	list, err := token.OpenFor("operator", path, discard())
	if err != nil {
		t.Fatal(err)
	}
	if name, ok := list.Name(bobToken); name != "operator" || !ok {
		t.Errorf("Name = %q, %v, want operator", name, ok)
	}
}

// An emptied, removed or damaged file revokes every token, and heals.
func TestAFileThatCannotBeUsedRevokesEveryToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := write(t, filepath.Join(t.TempDir(), "tokens"), "alice "+aliceToken)
		list, err := token.Open(path, discard())
		if err != nil {
			t.Fatal(err)
		}
		for _, spoil := range []func(){
			func() { write(t, path, "") },
			func() { write(t, path, "alice "+aliceToken+"\nthis is no line\n") },
			func() { _ = os.Remove(path) },
		} {
			spoil()
			time.Sleep(time.Second) // of the bubble: the file is looked at once a second
			if _, ok := list.Name(aliceToken); ok || list.Err() == nil {
				t.Errorf("accepted = %v, Err = %v, want a refusal and its reason", ok, list.Err())
			}
			write(t, path, "alice "+aliceToken)
			time.Sleep(time.Second)
			if _, ok := list.Name(aliceToken); !ok || list.Err() != nil {
				t.Errorf("after the repair: accepted = %v, Err = %v", ok, list.Err())
			}
		}
	})
}

func TestBadFiles(t *testing.T) {
	const secret = "0123456789abcde" // one character too short
	for content, says := range map[string]string{
		"":                                "holds no token",
		"# only words\n":                  "holds no token",
		"alice\n":                         "line 1",
		"b " + bobToken + "\nalice x y\n": "line 2",
		"al/ice " + aliceToken:            "line 1",
		"alice " + secret:                 "alice has less than 16 characters",
		"alice " + aliceToken + "\nbob " + aliceToken: "alice and bob share",
		"alice \u00e9" + aliceToken:                   "line 1",
	} {
		path := write(t, filepath.Join(t.TempDir(), "tokens"), content)
		if err := token.Check(path); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), aliceToken) {
			t.Errorf("%q: %v, want an error that says %q and repeats no token", content, err, says)
		}
	}
	path := write(t, filepath.Join(t.TempDir(), "token"), "alice "+aliceToken)
	if err := token.CheckFor("operator", path); err == nil || !strings.Contains(err.Error(), "want one token") {
		t.Errorf("a name where none is wanted: %v", err)
	}
}

func TestFromHeader(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer abc": "abc", "bearer  abc ": "abc", "abc": "", "Basic abc": "", "Bearer": "", "Bearerabc": "", "": "",
	} {
		if got := token.FromHeader(http.Header{"Authorization": {value}}); got != want {
			t.Errorf("%q = %q, want %q", value, got, want)
		}
	}
	if got := token.FromHeader(http.Header{"Authorization": {"Bearer a", "Bearer b"}}); got != "" {
		t.Errorf("two headers = %q, want none", got)
	}
}

func TestOwn(t *testing.T) {
	dir := t.TempDir()
	for content, ok := range map[string]bool{"short\n": true, "": false, "two words": false, "a\nb": false} {
		path := write(t, filepath.Join(dir, "token"), content)
		own, err := token.OpenOwn(path, discard())
		if (err == nil) != ok {
			t.Errorf("%q: %v", content, err)
		}
		if ok {
			if got, err := own.Get(); got != "short" || err != nil {
				t.Errorf("Get = %q, %v", got, err)
			}
		}
	}
}

// TestRefusals: a thousand guesses at once are all counted, logged in one line,
// and delayed; but no more than 64 at a time, so that they cannot fill the service.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var log bytes.Buffer
		f := token.NewRefusals(reg, slog.New(slog.NewTextHandler(&log, nil)))
		var mu sync.Mutex
		var delayed, closed int
		start := time.Now()
		var guesses sync.WaitGroup
		for range 1000 {
			guesses.Go(func() {
				w := httptest.NewRecorder()
				f.Add(w, httptest.NewRequest("POST", "/", nil), token.Unknown)
				mu.Lock()
				defer mu.Unlock()
				if time.Since(start) > 0 {
					delayed++
				}
				if w.Header().Get("Connection") == "close" {
					closed++
				}
			})
		}
		guesses.Wait()
		if delayed != 64 || closed != 936 || time.Since(start) > time.Second {
			t.Errorf("%d delayed, %d closed in %v, want 64 and 936 within a second", delayed, closed, time.Since(start))
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines logged, want one:\n%s", n, log.String())
		}
		time.Sleep(time.Second)
		f.Add(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil), token.Missing)
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines logged after another second, want two", n)
		}
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for reason, n := range map[string]string{"missing": "1", "signature": "0", "token": "1000"} {
			if line := `taskwire_auth_failures_total{reason="` + reason + `"} ` + n + "\n"; !strings.Contains(w.Body.String(), line) {
				t.Errorf("metrics lack %s:\n%s", line, w.Body)
			}
		}
	})
}
