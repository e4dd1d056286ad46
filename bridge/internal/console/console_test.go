package console_test

import (
	"bufio"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/console"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a-token-of-an-operator"

// bench is a console over two subscriptions that never run.
type bench struct {
	*testing.T
	console *console.Console
	handler http.Handler
	steps   *journal.Journal
}

func newBench(t *testing.T, change func(*console.Config)) *bench {
	t.Helper()
	transport := &kafkago.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return newBenchOn(t, &kafkago.Client{Addr: kafkago.TCP("127.0.0.1:1"), Transport: transport}, change)
}

func newBenchOn(t *testing.T, client *kafkago.Client, change func(*console.Config)) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	var subs []*pump.Subscription
	metrics := pump.NewMetrics(prometheus.NewRegistry())
	for _, name := range []string{"audit", "notifications"} {
		s, err := pump.New(pump.Config{Name: name, Group: name + "-service", Topic: "task-events", Sink: "http://127.0.0.1:1/", Order: pump.ByKey, Concurrency: 1, DeadLetter: "task-events-dlq"},
			client, nil, pump.NewBudget(1<<20), metrics, log)
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	all := func() []*pump.Subscription { return subs }
	cfg := console.Config{
		Admin:         admin.Config{Loopback: true, Jobs: redrive.New(all, log), Letters: admin.NewReader()},
		Subscriptions: all, Journal: journal.New(), Log: log,
		Settings: func(string) []console.Setting { return nil },
		Explain:  func(string, []byte) (console.Explanation, error) { return console.Explanation{Match: true}, nil },
	}
	if change != nil {
		change(&cfg)
	}
	c := console.New(cfg)
	t.Cleanup(c.Close)
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the admin API") })
	return &bench{T: t, console: c, handler: c.Handler(next), steps: cfg.Journal}
}

// withToken is a console that asks for one.
func withToken(t *testing.T, path string) func(*console.Config) {
	return func(cfg *console.Config) {
		list, err := token.OpenFor("operator", path, cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Admin.Token, cfg.Admin.Refusals, cfg.Admin.Loopback = list, token.NewRefusals(prometheus.NewRegistry(), cfg.Log), false
	}
}

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// reply is an answer whose body was read.
type reply struct {
	*http.Response
	text string
}

// ask makes a request as a browser would; header lines are "Name: value".
func (b *bench) ask(method, path, form string, lines ...string) reply {
	r := httptest.NewRequest(method, "http://localhost:8001"+path, strings.NewReader(form))
	r.RemoteAddr = "127.0.0.1:5555"
	r.Header.Set("Accept", "text/html")
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	resp := w.Result()
	defer resp.Body.Close()
	return reply{resp, w.Body.String()}
}

func TestEveryPageHasThePolicy(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/", "/console/subscriptions", "/console/subscriptions/audit", "/console/audit", "/console/try", "/console/nothing", "/console/jobs/x"} {
		resp := b.ask("GET", path, "")
		policy := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy %q lacks %s", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") || resp.Header.Get("X-Frame-Options") != "DENY" || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, resp.Header)
		}
		if body := resp.text; strings.Contains(body, "style=\"") || strings.Contains(body, "onclick") || strings.Contains(body, "//cdn") {
			t.Errorf("%s has what the policy forbids", path)
		}
	}
	for _, path := range []string{"/subscriptions", "/deadletters"} {
		if got := b.ask("GET", path, "").text; got != "the admin API" {
			t.Errorf("%s = %q: JSON stays where it was", path, got)
		}
	}
}

// Who makes an operator's browser send something, or is somebody else, changes nothing.
func TestWhoMayWrite(t *testing.T) {
	pause := "reason=because"
	for name, c := range map[string]struct {
		change func(*console.Config)
		lines  []string
		want   int
	}{
		"from another site":             {nil, []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, 403},
		"from another port":             {nil, []string{"Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"}, 403},
		"an old browser, other site":    {nil, []string{"Origin: https://evil.example"}, 403},
		"a sandboxed frame":             {nil, []string{"Origin: null"}, 403},
		"a name that was rebound":       {nil, []string{"Host: evil.example"}, 403},
		"read-only":                     {func(cfg *console.Config) { cfg.ReadOnly = true }, nil, 403},
		"not on loopback, no token":     {func(cfg *console.Config) { cfg.Admin.Loopback = false }, nil, 403},
		"a token, and none given":       {withToken(t, tokenFile(t, secret)), nil, 401},
		"a wrong token":                 {withToken(t, tokenFile(t, secret)), []string{"Authorization: Bearer another-token-altogether"}, 401},
		"a session that never was":      {withToken(t, tokenFile(t, secret)), []string{"Cookie: taskwire_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, 401},
		"the operator":                  {nil, []string{"Sec-Fetch-Site: same-origin"}, 303},
		"the operator, with a token":    {withToken(t, tokenFile(t, secret)), []string{"Authorization: Bearer " + secret}, 303},
		"the operator, an allowed name": {func(cfg *console.Config) { cfg.Admin.Hosts = httpd.Hosts{"bridge.example"} }, []string{"Host: bridge.example"}, 303},
	} {
		b := newBench(t, c.change)
		if resp := b.ask("POST", "/console/subscriptions/audit/pause", pause, c.lines...); resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d: %.300s", name, resp.StatusCode, c.want, resp.text)
		}
	}
}

// Every way to change something is behind the same door.
func TestNoWriteIsLeftOpen(t *testing.T) {
	b := newBench(t, withToken(t, tokenFile(t, secret)))
	for _, path := range []string{"subscriptions/audit/pause", "subscriptions/audit/resume", "subscriptions/audit/explain", "subscriptions/audit/fault", "deadletters/plan", "jobs/x/start", "jobs/x/cancel", "try"} {
		if resp := b.ask("POST", "/console/"+path, "reason=x"); resp.StatusCode != 401 {
			t.Errorf("POST %s without a session: %d, want 401", path, resp.StatusCode)
		}
	}
	for _, path := range []string{"/", "/console/subscriptions", "/console/deadletters", "/console/audit", "/console/audit/raw/1", "/console/audit/tile/0/000", "/console/try", "/console/event/t/0/0"} {
		if resp := b.ask("GET", path, ""); resp.StatusCode != 303 || !strings.HasPrefix(resp.Header.Get("Location"), "/console/sign-in") {
			t.Errorf("GET %s without a session: %d to %q, want the form", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if resp := b.ask("GET", "/events", "", "Accept: text/event-stream"); resp.StatusCode != 401 {
		t.Errorf("GET /events without a session: %d", resp.StatusCode)
	}
}

func TestASession(t *testing.T) {
	path := tokenFile(t, secret)
	b := newBench(t, withToken(t, path))
	if resp := b.ask("POST", "/console/sign-in", "token=wrong-wrong-wrong-wrong"); resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
		t.Fatalf("a wrong token: %d, cookies %v", resp.StatusCode, resp.Cookies())
	}
	if resp := b.ask("POST", "/console/sign-in", "token="+secret, "Sec-Fetch-Site: cross-site"); resp.StatusCode != 403 {
		t.Fatalf("signed in by another site: %d", resp.StatusCode)
	}
	resp := b.ask("POST", "/console/sign-in", "token="+secret+"&next="+url.QueryEscape("/console/audit"))
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/console/audit" || len(resp.Cookies()) != 1 {
		t.Fatalf("signed in: %d, %v", resp.StatusCode, resp.Header)
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || strings.Contains(cookie.Value, secret) {
		t.Errorf("cookie = %+v", cookie)
	}
	for _, next := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, "/console/\r\nX: y", "/consolevil"} {
		if to := b.ask("POST", "/console/sign-in", "token="+secret+"&next="+url.QueryEscape(next)).Header.Get("Location"); to != "/" {
			t.Errorf("next %q leads to %q", next, to)
		}
	}
	mine := "Cookie: taskwire_session=" + cookie.Value
	if resp := b.ask("GET", "/console/subscriptions", "", mine); resp.StatusCode != 200 {
		t.Fatalf("with the session: %d", resp.StatusCode)
	}
	if resp := b.ask("POST", "/console/subscriptions/audit/pause", "reason=x", mine, "Sec-Fetch-Site: cross-site"); resp.StatusCode != 403 {
		t.Errorf("the session of another site's form: %d", resp.StatusCode)
	}
	b.ask("POST", "/console/sign-out", "", mine)
	if resp := b.ask("GET", "/console/subscriptions", "", mine); resp.StatusCode != 303 {
		t.Errorf("after signing out: %d", resp.StatusCode)
	}
}

// A token that is taken back ends its sessions.
func TestARevokedTokenEndsItsSessions(t *testing.T) {
	path := tokenFile(t, secret)
	b := newBench(t, withToken(t, path))
	cookie := b.ask("POST", "/console/sign-in", "token="+secret).Cookies()[0]
	if err := os.WriteFile(path, []byte("another-token-altogether\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for b.ask("GET", "/", "", "Cookie: taskwire_session="+cookie.Value).StatusCode == 200 {
		if time.Now().After(deadline) {
			t.Fatal("the session outlives its token")
		}
		time.Sleep(50 * time.Millisecond) // the file is looked at once a second
	}
}

// What only the bridge can reach is not for whoever reaches the bridge.
func TestOtherServicesAreForOperators(t *testing.T) {
	asked := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer other.Close()
	b := newBench(t, func(cfg *console.Config) {
		cfg.Admin.Loopback, cfg.Auditor, cfg.TaskAPI = false, other.URL, other.URL
	})
	for _, path := range []string{"/console/audit", "/console/audit/entries/1", "/console/audit/raw/1", "/console/audit/proof/1", "/console/audit/key", "/console/audit/tile/0/000", "/console/audit/tasks/x", "/console/try"} {
		if resp := b.ask("GET", path, ""); resp.StatusCode != 403 {
			t.Errorf("GET %s: %d, want 403", path, resp.StatusCode)
		}
	}
	if asked > 0 {
		t.Errorf("the other service was asked %d times", asked)
	}
}

// No path of the auditor but those of entries, proofs and tiles can be reached, and
// what it answers is never taken for a page.
func TestTheAuditorIsAskedForNothingElse(t *testing.T) {
	var paths []string
	auditor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<script>alert(1)</script>")
	}))
	defer auditor.Close()
	b := newBench(t, func(cfg *console.Config) { cfg.Auditor = auditor.URL })
	for _, path := range []string{"/console/audit/raw/..%2F..%2Fadmin", "/console/audit/raw/1%3Fx", "/console/audit/proof/-1", "/console/audit/tile/..%2Fentries", "/console/audit/tile/0/entries", "/console/audit/raw/x"} {
		if resp := b.ask("GET", path, ""); resp.StatusCode != 404 {
			t.Errorf("GET %s: %d, want 404", path, resp.StatusCode)
		}
	}
	if len(paths) > 0 {
		t.Errorf("the auditor was asked for %v", paths)
	}
	resp := b.ask("GET", "/console/audit/raw/1", "")
	if resp.Header.Get("Content-Type") != "application/octet-stream" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("passed on as %q", resp.Header.Get("Content-Type"))
	}
}

// Everything that an event carries is hostile.
func TestHostileTextsAreInert(t *testing.T) {
	b := newBench(t, nil)
	hostile := `"><script>alert(1)</script><img src=x onerror=alert(2)>` + "\u202egnp.\u0000\x1b[2J"
	b.steps.Add(journal.Step{Kind: journal.Attempted, At: time.Now(), Subscription: "audit", Topic: "task-events", Event: hostile, Type: hostile, Key: hostile, Version: hostile, Outcome: "retry", Error: hostile, Next: time.Now()})
	for _, path := range []string{"/", "/?type=" + url.QueryEscape(hostile) + "&key=" + url.QueryEscape(hostile), "/console/event/task-events/0/0", "/console/deadletters?subscription=" + url.QueryEscape(hostile) + "&since=" + url.QueryEscape(hostile), "/console/sign-in?next=" + url.QueryEscape(hostile)} {
		body := b.ask("GET", path, "").text
		if strings.Contains(body, "<script>alert") || strings.Contains(body, "<img") || !strings.Contains(path, "=") && strings.ContainsAny(body, "\u202e\x00\x1b") { // a field has what was typed into it
			t.Errorf("%s carries the text as it is", path)
		}
	}
	if body := b.ask("GET", "/", "").text; !strings.Contains(body, `\u{202e}`) || !strings.Contains(body, "&lt;script&gt;") {
		t.Error("the hostile texts are not shown, spelt out")
	}
}

// An event that waits for a schema says so in the flow and on its own page, with the reason.
func TestAnEventWithoutItsSchema(t *testing.T) {
	b := newBench(t, nil)
	b.steps.Add(journal.Step{Kind: journal.Received, At: time.Now(), Subscription: "audit", Topic: "task-events", Event: "e1"})
	b.steps.Add(journal.Step{Kind: journal.Undecoded, At: time.Now(), Subscription: "audit", Topic: "task-events", Event: "e1", Error: "schema 7 is not known: status 503"})
	for path, want := range map[string]string{"/": "waits for its schema", "/console/event/task-events/0/0": "waits for the schema of its data"} {
		if body := b.ask("GET", path, "").text; !strings.Contains(body, want) || !strings.Contains(body, "schema 7 is not known") {
			t.Errorf("%s does not say %q and why", path, want)
		}
	}
}

// Without brokers nothing is said to be delivered.
func TestBrokersThatDoNotAnswer(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/", "/console/subscriptions", "/console/subscriptions/audit"} {
		if text := b.ask("GET", path, "").text; strings.Contains(text, "up to date") || strings.Contains(text, "is delivered") || !strings.Contains(text, "the brokers do not answer") {
			t.Errorf("%s: %s", path, text)
		}
	}
}

// Somebody who can change nothing is told why.
func TestWhyNothingCanBeChanged(t *testing.T) {
	for want, change := range map[string]func(*console.Config){
		"Changes are for operators":    func(cfg *console.Config) { cfg.Admin.Loopback = false },
		"the console changes nothing.": func(cfg *console.Config) { cfg.ReadOnly = true },
	} {
		resp := newBench(t, change).ask("GET", "/console/subscriptions/audit", "")
		if !strings.Contains(resp.text, want) || strings.Contains(resp.text, "/pause") {
			t.Errorf("it does not say %q: %.3000s", want, resp.text)
		}
	}
	if resp := newBench(t, nil).ask("GET", "/console/subscriptions/audit", ""); strings.Contains(resp.text, "Changes are for operators") || !strings.Contains(resp.text, "/pause") {
		t.Error("an operator is kept from changes")
	}
}

// The dead letters that somebody looks for are the newest ones.
func TestDeadLettersOfTheSubscriptionThatHasThem(t *testing.T) {
	b := newBench(t, nil)
	for _, name := range []string{"notifications", "gone"} {
		b.steps.Add(journal.Step{Kind: journal.DeadLetter, Subscription: name})
		if text := b.ask("GET", "/console/deadletters", "").text; !strings.Contains(text, "<option selected>notifications") {
			t.Errorf("after a letter of %s the page is not about notifications", name)
		}
	}
}

func TestABasePath(t *testing.T) {
	b := newBench(t, func(cfg *console.Config) { cfg.Base = "/bridge" })
	for _, path := range []string{"/bridge/", "/"} { // a proxy cuts it off, or does not
		body := b.ask("GET", path, "").text
		if !strings.Contains(body, `href="/bridge/console/subscriptions"`) || !strings.Contains(body, `href="/bridge/_/`) || strings.Contains(body, `href="/console`) {
			t.Errorf("%s: addresses lack the base path", path)
		}
	}
	for _, path := range []string{"/bridge/console/subscriptions/a%2Fb", "/console/subscriptions/a%2Fb"} {
		if body := b.ask("GET", path, "").text; !strings.Contains(body, "There is no subscription with this name.") {
			t.Errorf("%s: a slash in a name ends it: %.200s", path, body)
		}
	}
	if got := b.ask("GET", "/bridgework/", "").text; got != "the admin API" {
		t.Errorf("another path: %q", got)
	}
}

// An asset is there under the hash of all of them alone, for ever.
func TestAssets(t *testing.T) {
	b := newBench(t, nil)
	body := b.ask("GET", "/", "").text
	at := strings.Index(body, "/_/")
	hash := body[at : at+len("/_/123456789012")]
	for _, name := range []string{"style.css", "live.js", "verify.js", "audit.js", "icon.svg", "vendor/ed25519.js", "vendor/sha2.js", "vendor/_md.js", "vendor/_u64.js", "vendor/utils.js"} {
		resp := b.ask("GET", hash+"/"+name, "")
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %v", name, resp.StatusCode, resp.Header)
		}
	}
	if resp := b.ask("GET", "/_/000000000000/style.css", ""); resp.StatusCode != 404 {
		t.Errorf("under another hash: %d", resp.StatusCode)
	}
}

// stream opens /events over a real connection.
func stream(t *testing.T, url, last string, lines ...string) (*bufio.Reader, func()) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req) //nolint:bodyclose // the returned function closes it
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /events: %v, %v", err, resp)
	}
	return bufio.NewReader(resp.Body), func() { resp.Body.Close(); transport.CloseIdleConnections() }
}

func until(t *testing.T, r *bufio.Reader, what string) string {
	t.Helper()
	seen := ""
	for {
		line, err := r.ReadString('\n')
		seen += line
		if strings.Contains(line, what) {
			return seen
		}
		if err != nil {
			t.Fatalf("the stream ended before %q: %v\n%s", what, err, seen)
		}
	}
}

func TestEventsResume(t *testing.T) {
	b := newBench(t, nil)
	server := httptest.NewServer(b.handler)
	defer server.Close()
	b.steps.Add(journal.Step{Kind: journal.Received, Event: "one"})
	b.steps.Add(journal.Step{Kind: journal.Received, Event: "two"})
	r, leave := stream(t, server.URL, b.steps.Boot+"-1")
	seen := until(t, r, `"two"`)
	if strings.Contains(seen, `"one"`) || !strings.Contains(seen, "id: "+b.steps.Boot+"-2") {
		t.Errorf("resumed behind the first: %s", seen)
	}
	b.steps.Add(journal.Step{Kind: journal.Received, Event: "three"})
	until(t, r, `"three"`)
	leave()
	r, leave = stream(t, server.URL, "another-2")
	until(t, r, "event: gap")
	leave()
}

// More than a client can be told becomes a gap: nobody waits for it.
func TestAFloodIsCutShort(t *testing.T) {
	b := newBench(t, nil)
	server := httptest.NewServer(b.handler)
	defer server.Close()
	for range 100_000 {
		b.steps.Add(journal.Step{Kind: journal.Received})
	}
	r, leave := stream(t, server.URL, b.steps.Boot+"-1")
	until(t, r, "event: gap")
	until(t, r, "id: "+b.steps.Boot+"-100000")
	leave()
}

// The streams end when the bridge stops, and no more than 64 are open.
func TestStreamsAreBoundedAndEnd(t *testing.T) {
	b := newBench(t, nil)
	server := httptest.NewServer(b.handler)
	defer server.Close()
	var readers []*bufio.Reader
	for range 64 {
		r, leave := stream(t, server.URL, "")
		defer leave()
		readers = append(readers, r)
	}
	resp := b.ask("GET", "/events", "")
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more: %d, want 503", resp.StatusCode)
	}
	b.console.Close()
	for _, r := range readers {
		if _, err := io.ReadAll(r); err != nil {
			t.Error(err)
		}
	}
}
