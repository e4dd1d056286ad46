package rest_test

import (
	"net/http"
	"testing"
)

// discard is a ResponseWriter that keeps the status only.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// A create costs no more than this from the request's header to the bytes of the
// answer, its transaction included: every allocation here is paid thousands of times a second.
func TestACreateStaysWithinItsAllocations(t *testing.T) {
	const budget = 70 // with the race detector, which empties pools at random; 62 without
	f := setup(t, settings{})
	requests := make(chan *http.Request, 201)
	for range cap(requests) {
		requests <- request(http.MethodPost, "/tasks", `{"title": "Buy milk"}`, "Content-Type: application/json")
	}
	allocs := testing.AllocsPerRun(cap(requests)-1, func() {
		w := discard{header: http.Header{}}
		if f.api.ServeHTTP(&w, <-requests); w.status != http.StatusCreated {
			t.Fatalf("status %d", w.status)
		}
	})
	t.Logf("%.0f allocations", allocs)
	if allocs > budget {
		t.Errorf("%.0f allocations for a create, want at most %d", allocs, budget)
	}
}
