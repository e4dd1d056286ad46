package deliver_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/webhook"
)

const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"
	newSecret = "whsec_YS1uZXctc2VjcmV0LW9mLTI0LWJ5dGVz\n"
)

func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func secrets(t *testing.T, content string) (*webhook.Secrets, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets")
	replace(t, path, content)
	s, err := webhook.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// TestPostsCarryTheirCredentials: during a rotation a post verifies under either
// secret alone; every attempt has the event's webhook-id and a time of its own.
func TestPostsCarryTheirCredentials(t *testing.T) {
	both, _ := secrets(t, oldSecret+newSecret)
	onlyOld, _ := secrets(t, oldSecret)
	onlyNew, _ := secrets(t, newSecret)
	bearerPath := filepath.Join(t.TempDir(), "bearer")
	replace(t, bearerPath, "abc123\n")
	bearer, err := token.OpenOwn(bearerPath, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name, known := range map[string]*webhook.Secrets{"old": onlyOld, "new": onlyNew} {
			if err := known.Verify(r.Header, body); err != nil {
				t.Errorf("%s secret: %v", name, err)
			}
		}
		if got := r.Header.Get("Webhook-Id"); got != webhook.ID("task-api", "1") {
			t.Errorf("webhook-id of attempt %s = %s", r.Header.Get("Taskwire-Attempt"), got)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer abc123" {
			t.Errorf("Authorization = %q", got)
		}
	}))
	defer s.Close()
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 2 * time.Second, Signing: both, Bearer: bearer})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for attempt := 1; attempt <= 2; attempt++ {
		if got := once(t, c, deliver.Post{WebhookID: webhook.ID("task-api", "1"), Body: []byte("{}"), Attempt: attempt}); got.Outcome != deliver.Accepted {
			t.Errorf("Attempt = %+v", got)
		}
	}
}

// TestNothingIsPostedWithoutItsCredentials: not the event's fault, so it is retried.
func TestNothingIsPostedWithoutItsCredentials(t *testing.T) {
	var posts atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { posts.Add(1) }))
	defer s.Close()
	signing, path := secrets(t, oldSecret)
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 2 * time.Second, Signing: signing})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the client has noticed", func() bool { return c.Ready() != nil })
	got := once(t, c, deliver.Post{WebhookID: "m", Body: []byte("{}")})
	if got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), path) || posts.Load() != 0 {
		t.Errorf("Attempt = %+v with %d posts, want a sink fault that names the file and none", got, posts.Load())
	}
}
