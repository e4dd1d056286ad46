package browser

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/stack"
)

const (
	// inside is in everything that events carry.
	inside = "zqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzq"
	token  = "the-token-of-an-operator"
)

// repeating answers with the event that it refuses, as many sinks do.
func repeating(t *testing.T, status int) string {
	t.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("no " + inside))
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(sink.Close)
	return sink.URL + "/"
}

// logbook keeps what the services log.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// closed is a system that hides payloads and asks for a token.
func closed(t *testing.T, book *logbook) *stack.Stack {
	t.Helper()
	dir := t.TempDir()
	log := func(service string) *slog.Logger {
		return slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelDebug})).With("service", service)
	}
	return systemWith(t, log, func(s *stack.Stack) env.Lookup {
		for name, text := range map[string]string{"tokens": token + "\n", "bridge.yaml": fmt.Sprintf(`subscriptions:
  - {name: refused, group: refused, sink: %q}
  - {name: busy, group: busy, sink: %q, exhausted: block}
  - {name: audit, group: audit-service, sink: %q}
`, repeating(t, http.StatusUnprocessableEntity), repeating(t, http.StatusServiceUnavailable), s.URL("auditor"))} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return env.Map(map[string]string{"CONSOLE_PAYLOADS": "hide", "ADMIN_TOKEN_FILE": filepath.Join(dir, "tokens"), "BRIDGE_CONFIG": filepath.Join(dir, "bridge.yaml"), "LOG_LEVEL": "debug"})
	})
}

// CONSOLE_PAYLOADS=hide: an operator sees no payload, in no page, stream or other answer
// of the bridge, and is told why. The token that was typed stays where it was typed.
func TestPayloadsAreHidden(t *testing.T) {
	t.Parallel()
	var book logbook
	s := closed(t, &book)
	id := create(t, s, inside)
	change(t, s, id, `{"status":"in_progress","title":"`+inside+`, again"}`)
	b := open(t, s.URL("bridge"))
	b.visit("/console/audit")
	b.await("The console asks for a token")
	b.look("50-sign-in")
	b.keys(token + kb.Enter) // the field has the focus
	b.await("2 entries")
	for _, place := range []string{"location.href", "document.cookie", "JSON.stringify(localStorage)", "JSON.stringify(sessionStorage)", "document.documentElement.outerHTML", `performance.getEntries().map((e) => e.name).join()`} {
		if strings.Contains(must[string](b, place), token) {
			t.Errorf("the token is in %s", place)
		}
	}
	w := kafkago.Writer{Addr: kafkago.TCP(s.Brokers()...), Topic: "task-events", BatchTimeout: time.Millisecond}
	defer w.Close()
	if err := w.WriteMessages(t.Context(), kafkago.Message{Key: []byte("raw"), Value: []byte(inside), Headers: []kafkago.Header{{Key: "x", Value: []byte(inside)}}}); err != nil {
		t.Fatal(err)
	}
	b.visit("/console/deadletters?subscription=refused")
	b.await("3 letters")
	b.await("malformed")
	raw := must[string](b, `[...document.querySelectorAll(".open")].find((e) => e.innerText.startsWith("malformed")).getAttribute("href")`)
	b.look("51-hidden-letters")
	for path, says := range map[string]string{
		"/console/event/task-events/0/0": "the console shows no payloads", "/console/event/task-events/0/0?tab=raw": "the console shows no payloads",
		"/console/deadletters/refused/0/0": "the console shows no payloads", raw + "?tab=headers": "the console shows no payloads",
		"/console/audit/entries/1": "the console shows no payloads", "/console/audit/tasks/" + id: "the console shows no payloads",
		"/console/subscriptions/busy": "the sink answered 503",
	} {
		b.visit(path)
		b.await(says)
		if found := must[bool](b, `document.documentElement.outerHTML.includes("zqzq")`); found {
			t.Errorf("%s shows what it should hide", path)
		}
	}
	b.visit("/console/audit/entries/1")
	b.shot("52-hidden-entry")
	b.visit("/console/deadletters/refused/0/0")
	b.shot("53-hidden-letter")

	b.besiege(s)

	session := signIn(t, s)
	for path, got := range crawl(t, s, session) {
		if strings.Contains(got, "zqzq") || strings.Contains(got, "7a 71 7a 71") || strings.Contains(got, "enF6c") {
			at := max(0, strings.Index(got, "zqzq")-200)
			t.Errorf("%s carries the payload: %.400s", path, got[at:])
		}
	}
	if log := book.String(); strings.Contains(log, token) || strings.Contains(log, strings.TrimPrefix(session, "taskwire_session=")) {
		t.Error("a log has the token or the session")
	}
}

// signIn returns the cookie of a session.
func signIn(t *testing.T, s *stack.Stack) string {
	t.Helper()
	direct := http.Client{Transport: client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := direct.PostForm(s.URL("bridge")+"console/sign-in", url.Values{"token": {token}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if len(resp.Cookies()) != 1 {
		t.Fatalf("sign in: %s", resp.Status)
	}
	return "taskwire_session=" + resp.Cookies()[0].Value
}

// crawl follows every link of every page, asks for whatever else the bridge answers, and
// returns all answers.
func crawl(t *testing.T, s *stack.Stack, session string) map[string]string {
	t.Helper()
	base := strings.TrimSuffix(s.URL("bridge"), "/")
	todo := []string{"/", "/subscriptions", "/subscriptions/busy", "/deadletters?subscription=refused", "/deadletters?subscription=refused&payload=true", "/deadletters/jobs", "/events",
		"/console/audit/raw/1", "/console/audit/proof/1", "/console/audit/tile/0/000.p/2", "/console/audit/key", "/console/nothing", "/readyz"}
	links := regexp.MustCompile(`(?:href|data-url|action)="([^"]*)"`)
	boot := regexp.MustCompile(`data-boot="([^"]*)"`)
	seen := map[string]string{}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if _, ok := seen[path]; ok || !strings.HasPrefix(path, "/") || len(seen) > 500 {
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Cookie": {session}, "Accept": {"text/html"}}
		if path == "/events" {
			req.Header.Set("Last-Event-ID", boot.FindStringSubmatch(seen["/"])[1]+"-0")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		limit := int64(8 << 20)
		if path == "/events" {
			limit = 3000 // it has no end
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
		resp.Body.Close()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		seen[path] = string(body)
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			for _, link := range links.FindAllStringSubmatch(string(body), -1) {
				to, err := resp.Request.URL.Parse(html.UnescapeString(link[1]))
				if err == nil && to.Host == resp.Request.URL.Host {
					todo = append(todo, to.RequestURI())
				}
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d pages were found", len(seen))
	}
	return seen
}
