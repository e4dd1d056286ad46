package deliver_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// once is a worker that makes one post.
func once(t *testing.T, c *deliver.Client, p deliver.Post) deliver.Result {
	t.Helper()
	w := c.Worker(t.Context())
	defer w.Close()
	return w.Attempt(p)
}

func attempt(t *testing.T, url string) deliver.Result {
	t.Helper()
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return once(t, c, deliver.Post{ContentType: "application/cloudevents+json", Body: []byte("{}"), Attempt: 3, Topic: "events", Partition: "7", Offset: 42, TraceParent: "00-a-b-01"})
}

func TestWhatAnAnswerMeans(t *testing.T) {
	want := map[deliver.Outcome][]int{
		deliver.Accepted:  {200, 201, 202, 204},
		deliver.Retry:     {408, 425, 500, 501, 502, 503, 504, 599},
		deliver.Throttled: {429},
		deliver.SinkFault: {203, 205, 206, 299, 300, 301, 302, 303, 304, 307, 308, 401, 403, 404, 405, 407},
		deliver.Gone:      {410},
		deliver.Rejected:  {400, 402, 406, 409, 411, 413, 415, 422, 451},
	}
	for outcome, statuses := range want {
		for _, status := range statuses {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			if got := attempt(t, s.URL); got.Outcome != outcome || got.Status != status || (got.Err == nil) != (outcome == deliver.Accepted) {
				t.Errorf("answer %d = %+v, want %s", status, got, outcome)
			}
			s.Close()
		}
	}
}

func TestAnAttemptAllocatesLittle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var sink sync.WaitGroup
	sink.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var b [4096]byte
		answer := []byte("HTTP/1.1 204 No Content\r\nDate: Mon, 30 Nov 2026 00:00:00 GMT\r\n\r\n")
		for err == nil {
			if _, err = conn.Read(b[:]); err == nil {
				_, err = conn.Write(answer)
			}
		}
	})
	defer sink.Wait()
	c, err := deliver.New(deliver.Config{URL: "http://" + l.Addr().String(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := c.Worker(t.Context())
	defer w.Close()
	p := deliver.Post{ContentType: "application/cloudevents+json", Body: []byte("{}"), Attempt: 1, Topic: "events", Partition: "7", Offset: 123_456, TraceParent: "00-a-b-01"}
	allocs := testing.AllocsPerRun(1000, func() {
		if got := w.Attempt(p); got.Outcome != deliver.Accepted {
			t.Fatalf("attempt = %+v", got)
		}
	})
	if allocs > 1 {
		t.Errorf("%.1f allocations an attempt, want 1: the text of the offset", allocs)
	}
}

func TestARedirectIsNeverFollowed(t *testing.T) {
	var reached atomic.Bool
	page := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer page.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := httptest.NewServer(http.RedirectHandler(page.URL, status))
		if got := attempt(t, s.URL); got.Outcome != deliver.SinkFault || !strings.Contains(got.Err.Error(), "redirect") {
			t.Errorf("answer %d = %+v, want a sink fault whose error names the redirect", status, got)
		}
		s.Close()
	}
	if reached.Load() {
		t.Error("the target of a redirect was requested")
	}
}

// raw sends answer to every connection and closes it.
func raw(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, answer)
			_ = c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestAnIncompleteAnswerIsRetried(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":          "",
		"half a header":    "HTTP/1.1 20",
		"body cut":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunk cut":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
		"not HTTP":         "SSH-2.0-OpenSSH_9.9\r\n",
		"cut without body": "HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n",
	} {
		if got := attempt(t, raw(t, answer)); got.Outcome != deliver.Retry || got.Err == nil {
			t.Errorf("%s = %+v, want retry", name, got)
		}
	}
}

func TestAnEndlessAnswerIsReadUpToALimit(t *testing.T) {
	var sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			n, err := w.Write(make([]byte, 32<<10))
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	defer s.Close()
	if got := attempt(t, s.URL); got.Outcome != deliver.Accepted {
		t.Errorf("Attempt = %+v, want accepted by its status", got)
	}
	if n := sent.Load(); n > 16<<20 {
		t.Errorf("the sink could send %d bytes, want at most 16 MiB", n)
	}
}

func TestASinkThatHangsTimesOut(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := once(t, c, deliver.Post{}); got.Outcome != deliver.Retry {
		t.Errorf("Attempt = %+v, want retry", got)
	}
}

func TestHeadersAndRetryAfter(t *testing.T) {
	var got http.Header
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0, "99999999999999999999": 0, "9999999999": 365 * 24 * time.Hour,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): 0,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header
			w.Header().Set("Retry-After", value)
			w.WriteHeader(503)
		}))
		if res := attempt(t, s.URL); res.RetryAfter != want {
			t.Errorf("Retry-After %q = %v, want %v", value, res.RetryAfter, want)
		}
		s.Close()
	}
	got.Del("Accept-Encoding")
	got.Del("Content-Length")
	want := http.Header{
		"Content-Type": {"application/cloudevents+json"}, "User-Agent": {"taskwire-bridge"}, "Traceparent": {"00-a-b-01"},
		"Taskwire-Attempt": {"3"}, "Taskwire-Topic": {"events"}, "Taskwire-Partition": {"7"}, "Taskwire-Offset": {"42"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestBackoffIsBoundedAndObeysTheSink(t *testing.T) {
	b := deliver.Backoff{Initial: 200 * time.Millisecond, Multiplier: 2, Max: 30 * time.Second}
	for failed := 1; failed < 200; failed++ {
		if w := b.Wait(failed, 0); w < 0 || w > b.Max || (failed == 1 && w > b.Initial) {
			t.Fatalf("Wait after %d failures = %v, want 0 to %v", failed, w, b.Max)
		}
	}
	if w := b.Wait(1, time.Minute); w != time.Minute {
		t.Errorf("Wait with a Retry-After of a minute = %v, want 1m", w)
	}
	if w := b.Wait(1, time.Hour); w != 300*time.Second {
		t.Errorf("Wait with a Retry-After of an hour = %v, want ten times the maximum", w)
	}
}

// What a sink says may repeat the event: it can be left out of every error.
func TestErrorsWithoutTheAnswer(t *testing.T) {
	const words = "no, not hunter2"
	for status := range 300 {
		sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(300 + status)
			_, _ = io.WriteString(w, words)
		}))
		res := attempt(t, sink.URL)
		sink.Close()
		text := deliver.WithoutAnswer("redrive: " + res.Err.Error())
		if strings.Contains(text, "hunter2") || !strings.HasPrefix(text, "redrive: sink answered "+strconv.Itoa(300+status)) {
			t.Errorf("%d: %q of %q", 300+status, text, res.Err)
		}
	}
	if text := deliver.WithoutAnswer("post: dial tcp: connection refused"); text != "post: dial tcp: connection refused" {
		t.Errorf("without an answer it is %q", text)
	}
}
