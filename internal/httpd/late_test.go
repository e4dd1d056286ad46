package httpd

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuietIsCountedFromTheLastRequest(t *testing.T) {
	for _, c := range []struct {
		name        string
		quiet, most time.Duration
		requests    int // one a second
		want        bool
		after       time.Duration
	}{
		{"no setting", 0, time.Minute, 3, true, 0},
		{"no request", 3 * time.Second, time.Minute, 0, true, 3 * time.Second},
		{"five requests", 3 * time.Second, time.Minute, 5, true, 8 * time.Second},
		{"requests without an end", 3 * time.Second, 12 * time.Second, 100, false, 12 * time.Second},
		{"a grace that is shorter", 3 * time.Second, 2 * time.Second, 0, false, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, begin := newLate(), time.Now()
				var clients sync.WaitGroup
				defer clients.Wait()
				clients.Go(func() {
					for range c.requests {
						time.Sleep(time.Second)
						l.note(httptest.NewRecorder())
					}
				})
				if got := l.awaitQuiet(c.quiet, c.most); got != c.want || time.Since(begin) != c.after {
					t.Errorf("%v after %v, want %v after %v", got, time.Since(begin), c.want, c.after)
				}
			})
		})
	}
}

// A client that is not led elsewhere yet gets every answer, each on a connection that
// ends with it. POST is what the front answers, GET what net/http does.
func TestRequestsAfterTheStopAreAnswered(t *testing.T) {
	t.Parallel()
	s, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", Grace: time.Minute, Quiet: 5 * time.Second}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Handle(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	client := http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(method string) (ends bool) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		return resp.Close
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if ask(method) {
			t.Errorf("%s: the connection ends before the stop", method)
		}
	}
	stop()
	for !s.stopping.Load() {
		ask(http.MethodPost)
	}
	for range 20 {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if !ask(method) {
				t.Errorf("%s: the connection outlives its answer", method)
			}
		}
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
