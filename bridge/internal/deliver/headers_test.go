package deliver_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/apptest"
)

func TestWhichHeadersCanBeFixed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "value")
	replace(t, path, "a value\n")
	empty := filepath.Join(t.TempDir(), "empty")
	replace(t, empty, "\n")
	lines := filepath.Join(t.TempDir(), "lines")
	replace(t, lines, "hunter2\nX-Other: 1\n")
	for _, name := range []string{
		"Content-Type", "content-length", "Content-Encoding", "HOST", "Taskwire-Attempt", "taskwire-x", "ce-id", "CE-Type", "webhook-id", "WebHook-Request-Origin",
		"traceparent", "tracestate", "User-Agent", "Connection", "Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
	} {
		if got := deliver.CheckHeaders(map[string]string{name: "x"}); len(got) != 1 || !strings.HasPrefix(got[0], name+": is set by the bridge") {
			t.Errorf("%s: %q, want that it is refused", name, got)
		}
	}
	for _, name := range []string{"", "a b", "a:b", "a\r\nB", "ä", ":path", strings.Repeat("a", 101)} {
		if got := deliver.CheckHeaders(map[string]string{name: "x"}); len(got) != 1 || !strings.HasPrefix(got[0], "a name is not that of a header") {
			t.Errorf("name %q: %q, want that it is refused", name, got)
		}
	}
	for value, says := range map[string]string{
		"": "empty", " hunter2": "space", "hunter2\r\nB: 1": "printable", "hunter2ä": "printable", strings.Repeat("hunter2", 2000): "longer",
		"file:/none": "/none: no such file", "file:": "no such file", "file:" + empty: "empty", "file:" + lines: "printable",
	} {
		got := deliver.CheckHeaders(map[string]string{"X-Key": value})
		if len(got) != 1 || !strings.HasPrefix(got[0], "X-Key: ") || !strings.Contains(got[0], says) || strings.Contains(got[0], "hunter2") {
			t.Errorf("value %.20q: %q, want %q", value, got, says)
		}
	}
	if got := deliver.CheckHeaders(map[string]string{"X-Key": "1", "x-key": "2"}); len(got) != 1 || !strings.Contains(got[0], "same header") {
		t.Errorf("a header twice: %q", got)
	}
	if got := deliver.CheckHeaders(map[string]string{"X-Api_Key": "a b", "Authorization": "Basic YTpi", "Cookie": "file:" + path, "Tenant": "t"}); got != nil {
		t.Errorf("good headers: %q", got)
	}
}

// TestFixedHeadersAreSent with the content that their files have now, and never
// without.
func TestFixedHeadersAreSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	replace(t, path, "one\n")
	var seen atomic.Value
	var posts atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		seen.Store(slices.Concat(r.Header["X-Key"], r.Header["X-Fixed"]))
	}))
	defer s.Close()
	headers, err := deliver.OpenHeaders(map[string]string{"x-key": "file:" + path, "x-fixed": "f"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 5 * time.Second, Headers: headers})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	post := func() deliver.Result { return once(t, c, deliver.Post{Body: []byte("{}")}) }
	if got := post(); got.Outcome != deliver.Accepted || !slices.Equal(seen.Load().([]string), []string{"one", "f"}) {
		t.Errorf("Attempt = %+v with %v", got, seen.Load())
	}
	replace(t, path, "two")
	apptest.Await(t, "the new value", func() bool { post(); return seen.Load().([]string)[0] == "two" })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the client has noticed", func() bool { return c.Ready() != nil })
	before := posts.Load()
	if got := post(); got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), "headers.X-Key: "+path) || posts.Load() != before {
		t.Errorf("Attempt = %+v, want a sink fault that names the header and the file, and no post", got)
	}
}
