package pump_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/webhook"
)

// The webhook-id follows from the event alone: it is equal at every attempt and
// after a restart, because receivers recognise duplicates by it.
func TestEveryAttemptHasTheWebhookIDOfItsEvent(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets, err := webhook.Open(secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t, func(_ string, attempt int) int {
		if attempt < 3 {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	var mu sync.Mutex
	ids := map[string]int{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ids[r.Header.Get("Webhook-Id")]++
		mu.Unlock()
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	b := setup(t, front.URL)
	b.cfg.Signing = secrets
	b.produce(events(2, 2)...)
	_, stop := b.run()
	defer stop()
	b.untilCommitted(2)

	mu.Lock()
	defer mu.Unlock()
	want := map[string]int{}
	for _, id := range s.accepted() {
		want[webhook.ID("s", id)] = 3
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("posts by webhook-id (-want +got):\n%s", diff)
	}
}
