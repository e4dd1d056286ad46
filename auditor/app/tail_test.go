package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/apptest"
)

// follower is a client of the tail.
type follower struct {
	t    *testing.T
	resp *http.Response
	text *bufio.Reader
}

func (a *auditor) follow(query, lastID string) *follower {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	a.t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", a.URL+"/entries/tail"+query, nil)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := a.Client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { resp.Body.Close() })
	f := &follower{a.t, resp, bufio.NewReader(resp.Body)}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		a.t.Fatalf("tail: %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	f.block() // the comment at the beginning
	return f
}

// block reads up to an empty line.
func (f *follower) block() string {
	f.t.Helper()
	var b strings.Builder
	for {
		line, err := f.text.ReadString('\n')
		if err != nil {
			f.t.Fatalf("tail: %v after %q", err, b.String())
		}
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

func (f *follower) expect(a *auditor, seqs ...int) {
	f.t.Helper()
	for _, seq := range seqs {
		want := fmt.Sprintf("id: %d\ndata: %s\n", seq, a.get(fmt.Sprintf("%s/entries/%d", a.URL, seq)).Body)
		if got := f.block(); got != want {
			f.t.Fatalf("tail sent %q, want %q", got, want)
		}
	}
}

func TestTail(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	big := strings.Replace(body("task.updated", "a", 2), "a <b> &  c", strings.Repeat("x", 100_000), 1)
	for _, event := range []string{body("task.created", "a", 1), big, body("task.created", "b", 1)} {
		a.expect(a.post(event), 201, "")
	}
	fromNow, all, resumed, filtered := a.follow("", ""), a.follow("?after=0", ""), a.follow("?after=0", "2"), a.follow("?after=0&task_id=b", "")
	all.expect(a, 1, 2, 3)
	resumed.expect(a, 3)
	filtered.expect(a, 3)
	for v := 2; v <= 3; v++ {
		a.expect(a.post(body("task.updated", "b", v)), 201, "")
		a.expect(a.post(body("task.updated", "a", v+1)), 201, "")
		for _, f := range []*follower{fromNow, all, resumed} {
			f.expect(a, 2*v, 2*v+1)
		}
		filtered.expect(a, 2*v)
	}
	if got := a.get(a.URL + "/entries/tail?after=x"); got.Status != 400 {
		t.Errorf("a bad start: %+v", got)
	}
	// A stop ends the tails, else they would outlast the grace.
	if err := a.Stop(); err != nil {
		t.Errorf("stop: %v; the drain waited for a tail", err)
	}
	for _, f := range []*follower{fromNow, all, resumed, filtered} {
		if rest, err := io.ReadAll(f.text); err != nil || len(rest) > 0 {
			t.Errorf("after the stop: %q, %v", rest, err)
		}
	}
}

// A client that does not read is cut off: neither its connection nor its place is held.
func TestATailThatIsNotReadIsCutOff(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	for v := 1; v <= 12; v++ {
		a.expect(a.post(strings.Replace(body("task.updated", "a", v), "a <b> &  c", strings.Repeat("x", 900_000), 1)), 201, "")
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /entries/tail?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the auditor gives up on the client", func() bool {
		return strings.Contains(a.get(a.OpsURL+"/metrics").Body, `route="/entries/tail"`) // counted when it is over
	})
}

func TestTailsAreBounded(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	for range 64 {
		a.follow("", "")
	}
	if got := a.get(a.URL + "/entries/tail"); got.Status != 503 || got.RetryAfter != "1" {
		t.Errorf("one more: %+v", got)
	}
}

func (a *auditor) postBatch(body string) reply {
	a.t.Helper()
	req, _ := http.NewRequestWithContext(a.t.Context(), "POST", a.URL+"/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	return a.do(req)
}
