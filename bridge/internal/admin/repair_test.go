package admin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/bridge/internal/admin"
)

func TestARepairSaysWhatAndWho(t *testing.T) {
	h := admin.Handler(of(subscription(t)), admin.Config{Loopback: true})
	const accept, skip = "/subscriptions/audit/offsets/accept", "/subscriptions/audit/skip"
	for _, c := range []struct {
		path, media, body string
		want              int
		detail            string
	}{
		{accept, "application/json", `{"by":"alice"}`, 409, "no such partition of this bridge waits"},
		{accept, "application/json", `{"by":"alice","partition":3}`, 409, "no such partition of this bridge waits"},
		{accept, "application/json; charset=utf-8", `{}`, 422, "by: want"},
		{accept, "application/json", `{"by":"alice\nroot"}`, 422, "by: want"},
		{accept, "application/json", `{"by":"alice","offset":3}`, 400, "manual"},
		{accept, "application/json", `{"by":"alice"}{}`, 400, "manual"},
		{accept, "application/json", ``, 400, "manual"},
		{accept, "text/plain", `{"by":"alice"}`, 415, "application/json"}, // what a form of another site could send
		{skip, "application/json", `{"by":"alice","partition":0,"offset":1,"reason":"r"}`, 409, "does not have the partition"},
		{skip, "application/json", `{"by":"alice","partition":0,"offset":1}`, 422, "reason: want"},
		{skip, "application/json", `{"by":"alice","offset":1,"reason":"r"}`, 422, "partition and offset"},
		{skip, "application/json", `{"by":"alice","partition":0,"reason":"r"}`, 422, "partition and offset"},
		{skip, "application/json", `{"by":"alice","partition":0,"offset":1,"reason":"` + strings.Repeat("x", 501) + `"}`, 422, "reason: want"},
		{"/subscriptions/other/skip", "application/json", `{"by":"alice","partition":0,"offset":1,"reason":"r"}`, 404, "no subscription"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, c.path, strings.NewReader(c.body))
		r.Host, r.RemoteAddr = "localhost:8001", "127.0.0.1:40000"
		r.Header.Set("Content-Type", c.media)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want || !strings.Contains(w.Body.String(), c.detail) {
			t.Errorf("%s %s = %d %s, want %d with %q", c.path, c.body, w.Code, w.Body, c.want, c.detail)
		}
	}
	// A repair is a write like any other.
	open := admin.Handler(of(subscription(t)), admin.Config{})
	for _, path := range []string{accept, skip} {
		if got := ask(t, open, "POST "+path); got.Code != http.StatusForbidden {
			t.Errorf("%s without a token = %d, want 403", path, got.Code)
		}
	}
}
