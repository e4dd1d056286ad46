package deliver_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

func attemptBatch(t *testing.T, url string, events ...string) deliver.Result {
	t.Helper()
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b deliver.Batch
	b.Reset()
	for _, e := range events {
		b.Add([]byte(e))
	}
	return once(t, c, deliver.Post{ContentType: deliver.BatchContentType, Batch: &b, Attempt: 1, Topic: "t", Partition: "0"})
}

// said is a result in short: the outcome of the whole, or of each event.
func said(res deliver.Result) string {
	if res.Each == nil {
		return string(res.Outcome)
	}
	var each []string
	for _, r := range res.Each {
		if (r.Err == nil) != (r.Outcome == deliver.Accepted) {
			each = append(each, "with the wrong error:")
		}
		each = append(each, fmt.Sprintf("%s %d", r.Outcome, r.Status))
	}
	return strings.Join(each, ", ")
}

func TestWhatAnAnswerMeansForABatch(t *testing.T) {
	for _, c := range []struct {
		status       int
		answer, want string
	}{
		{200, ``, "accepted"},
		{204, ``, "accepted"},
		{202, `{"ok":true}`, "accepted"},
		{200, `<html>`, "accepted"},
		{200, `[{"status":201,"result":{"seq":1}},{"status":204}]`, "accepted 201, accepted 204"},
		{207, `[{"status":201},{"status":204}]`, "accepted 201, accepted 204"},
		{200, ` [{"status":409,"problem":{}}, {"status":503}]`, "rejected 409, retry 503"},
		{200, `[{"status":410},{"status":404}]`, "gone 410, sink_fault 404"},
		{409, `[{"status":201},{"status":409}]`, "accepted 201, rejected 409"},
		{503, `[{"status":201},{"status":503}]`, "accepted 201, retry 503"},
		{200, `[]`, "sink_fault"},
		{200, `[{"status":201}]`, "sink_fault"},
		{200, `[{"status":201},{"status":201},{"status":201}]`, "sink_fault"},
		{200, `[{"status":201},{}]`, "sink_fault"},
		{200, `[{"status":201},{"status":"201"}]`, "sink_fault"},
		{200, `[{"status":201},{"Status":201}]`, "sink_fault"},
		{200, `[{"status":201},{"status":409,"status":201}]`, "sink_fault"},
		{200, `[{"status":201},{"status":0}]`, "sink_fault"},
		{200, `[{"status":201},{"status":1000}]`, "sink_fault"},
		{200, `[201,201]`, "sink_fault"},
		{200, `[{"status":201},{"status":201}`, "sink_fault"},
		{200, `[{"status":201},{"status":201}] x`, "sink_fault"},
		{200, `[{"status":201},{"status":201,"x":"` + strings.Repeat("x", 80<<10) + `"}]`, "sink_fault"},
		{200, strings.Repeat("x", 100<<10), "accepted"},
		{500, `[{"status":201},{"status":201}]`, "retry"},
		{400, `[{"status":201},{"status":201}]`, "rejected"},
		{302, `[{"status":201},{"status":201}]`, "sink_fault"},
		{400, `{"title":"no"}`, "rejected"},
		{413, ``, "rejected"},
		{415, ``, "rejected"},
		{503, `[1]`, "retry"},
		{410, ``, "gone"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if string(body) != `[{"id":"1"},{"id":"2"}]` || r.Header.Get("Content-Type") != "application/cloudevents-batch+json; charset=utf-8" {
				t.Errorf("posted %s as %s", body, r.Header.Get("Content-Type"))
			}
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.answer)
		}))
		res := attemptBatch(t, s.URL, `{"id":"1"}`, `{"id":"2"}`)
		if got := said(res); got != c.want || res.Status != c.status {
			t.Errorf("answer %d %.60s = %s, want %s", c.status, c.answer, got, c.want)
		}
		if (res.Err == nil) != !strings.ContainsAny(strings.ReplaceAll(c.want, "accepted", ""), "rsg") {
			t.Errorf("answer %d %.60s: error %v", c.status, c.answer, res.Err)
		}
		for _, r := range append(res.Each, res) {
			if want := 7 * time.Second; r.Outcome == deliver.Retry && r.RetryAfter != want {
				t.Errorf("answer %d %.60s: Retry-After %v, want %v", c.status, c.answer, r.RetryAfter, want)
			}
		}
		s.Close()
	}
}

func TestAnAnswerToABatchThatIsCutAcceptsNothing(t *testing.T) {
	body := `[{"status":201},{"status":201}]`
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + body,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n" + body + "\r\n",
		"HTTP/1.1 204 OK\r\nContent-Le",
	} {
		if got := said(attemptBatch(t, raw(t, answer), `{}`, `{}`)); got != "retry" {
			t.Errorf("%q = %s, want retry", answer, got)
		}
	}
}

// TestABodyInUseIsNotWrittenOver: a sink may answer before it has read the body,
// which the transport then goes on to send. The race detector watches.
func TestABodyInUseIsNotWrittenOver(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer s.Close()
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b deliver.Batch
	for i := range 20 {
		b.Reset()
		for range 8 {
			b.Add([]byte(`"` + strings.Repeat(string(rune('a'+i%26)), 1<<20) + `"`))
		}
		deliver.Shared(c, t.Context(), deliver.Post{ContentType: deliver.BatchContentType, Batch: &b})
	}
}

func TestABatchUsesItsMemoryAgain(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer s.Close()
	c, err := deliver.New(deliver.Config{URL: s.URL, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	event := []byte(strings.Repeat("x", 1<<20))
	var b deliver.Batch
	perPost := testing.Benchmark(func(tb *testing.B) {
		tb.ReportAllocs()
		for tb.Loop() {
			b.Reset()
			b.Add(event)
			deliver.Shared(c, t.Context(), deliver.Post{ContentType: deliver.BatchContentType, Batch: &b})
		}
	}).AllocedBytesPerOp()
	if perPost > 1<<19 {
		t.Errorf("%d bytes are allocated for a post, want less than half of its body", perPost)
	}
}

func FuzzAnswerToABatch(f *testing.F) {
	f.Add(200, `[{"status":201},{"status":409}]`)
	f.Add(503, `[{"status":201},{"status":503}]`)
	f.Add(200, `[{"status":2e2},{"status":201}]`)
	f.Fuzz(func(t *testing.T, status int, answer string) {
		res := deliver.AnsweredBatch(&http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer))}, 2)
		if res.Each == nil {
			return
		}
		if len(res.Each) != 2 || !strings.HasPrefix(strings.TrimSpace(answer), "[") {
			t.Errorf("%d %q = %+v", status, answer, res)
		}
		if diff := cmp.Diff(res.Outcome == deliver.Accepted, res.Each[0].Outcome == deliver.Accepted && res.Each[1].Outcome == deliver.Accepted); diff != "" {
			t.Errorf("%d %q: the whole is not accepted as its events are: %s", status, answer, diff)
		}
	})
}
