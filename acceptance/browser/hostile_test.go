package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/stack"
)

// hostile is a text that does what it can.
const hostile = `"><img src=x onerror=alert(1)></title><script>alert(2)</script>{{.}}` + "\u202egnp.\u2028" + `'; DROP`

// records are those that somebody could write who may write to the topic.
func records() []kafkago.Message {
	event := func(id string, data any) []byte {
		text, err := json.Marshal(map[string]any{"specversion": "1.0", "id": id + hostile, "source": hostile, "type": hostile, "subject": hostile, "datacontenttype": "application/json", "data": data})
		if err != nil {
			panic(err) // it marshals
		}
		return text
	}
	binary := make([]byte, 4096)
	for i := range binary {
		binary[i] = byte(rand.IntN(256))
	}
	var headers []kafkago.Header
	for i := range 1000 {
		headers = append(headers, kafkago.Header{Key: fmt.Sprint(hostile, i), Value: bytes.Repeat([]byte(hostile), 6)})
	}
	structured := []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}}
	return []kafkago.Message{
		{Key: []byte(hostile), Headers: structured, Value: event("texts", map[string]string{"title": hostile, hostile: hostile})},
		{Key: []byte("long"), Headers: structured, Value: event("long", strings.Repeat("0123456789", 90_000))},
		{Key: []byte("deep"), Headers: structured, Value: event("deep", json.RawMessage(strings.Repeat("[", 900)+strings.Repeat("[],", 250_000)+"[]"+strings.Repeat("]", 900)))},
		{Key: binary[:64], Value: binary},
		{Key: []byte("headers"), Headers: headers, Value: []byte("no event")},
		{Key: bytes.Repeat([]byte("k"), 100_000), Value: []byte(`<?xml version="1.0"?>`)},
	}
}

// Whatever is on the topic, and whatever a sink says about it, the pages stay pages: no
// script of it runs, nothing of it becomes markup, and none is too big or too wide.
func TestHostileRecords(t *testing.T) {
	t.Parallel()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, hostile)
	}))
	t.Cleanup(sink.Close)
	config := filepath.Join(t.TempDir(), "bridge.yaml")
	s := systemWith(t, nil, func(s *stack.Stack) env.Lookup {
		text := fmt.Sprintf("subscriptions:\n  - {name: refused, group: refused, sink: %q}\n  - {name: audit, group: audit-service, sink: %q}\n", sink.URL+"/", s.URL("auditor"))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return env.Map(map[string]string{"BRIDGE_CONFIG": config})
	})
	w := kafkago.Writer{Addr: kafkago.TCP(s.Brokers()...), Topic: "task-events", BatchTimeout: time.Millisecond, BatchBytes: 4 << 20}
	defer w.Close()
	for _, m := range records() {
		if err := w.WriteMessages(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, s.URL("bridge"))
	// A clock that is three hours ahead, half a day from Greenwich.
	b.do(call(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Pacific/Kiritimati"}),
		call(cdppage.Enable, cdppage.EnableParams{}),
		call(cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: `const now = Date.now; Date.now = () => now() + 3 * 3600e3`}), chromedp.EmulateViewport(360, 740))
	b.visit("/console/deadletters?subscription=refused")
	b.await("6 letters")
	pages := []string{"/", "/console/audit", "/console/subscriptions/refused", "/console/deadletters?subscription=refused"}
	for _, path := range pages[:4] {
		b.visit(path)
		pages = append(pages, must[[]string](b, `[...document.querySelectorAll("main .rows a")].map((a) => a.getAttribute("href")).filter((h) => h.startsWith("/console/"))`)...)
	}
	seen := map[string]bool{}
	for _, path := range pages {
		for _, tab := range []string{"", "?tab=headers", "?tab=raw"} {
			if tab != "" && !strings.Contains(path, "/event/") && !strings.Contains(path, "/deadletters/") || seen[path+tab] {
				continue
			}
			seen[path+tab] = true
			b.visit(path + tab)
			b.awaitThat(`document.querySelector("main h1") !== null && document.documentElement.classList.contains("js")`)
			b.awaitThat(`![...document.querySelectorAll("time[data-ago]")].some((t) => /h ago|in \d/.test(t.textContent))`)
			if found := must[string](b, `[...document.querySelectorAll("main img, main script:not([src]), main iframe, main object, main title, main style")].map((e) => e.outerHTML).join()`); found != "" {
				b.Errorf("%s: a text became markup: %.300s", path+tab, found)
			}
			if size := must[int](b, `document.documentElement.outerHTML.length`); size > 2<<20 {
				b.Errorf("%s has %d characters", path+tab, size)
			}
			if over := must[int](b, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				b.shot("failure-wide")
				b.Errorf("%s is %d wider than the window: %s", path+tab, over, must[string](b, `[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 120)).slice(0, 3).join("\n")`))
			}
		}
	}
	if len(seen) < 30 {
		t.Errorf("only %d pages were found: %v", len(seen), seen)
	}
}

// A tab that nobody looks at holds no connection, and has missed nothing when it is
// looked at again. All of it below another path, as behind a proxy.
func TestATabInTheBackground(t *testing.T) {
	t.Parallel()
	s := systemWith(t, nil, func(*stack.Stack) env.Lookup { return env.Map(map[string]string{"BASE_PATH": "/tools/bridge"}) })
	b := open(t, s.URL("bridge")+"tools/bridge/")
	b.do(call(cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: `
			globalThis.streams = [];
			const Real = EventSource;
			globalThis.EventSource = class extends Real { constructor(...args) { super(...args); streams.push(this); } };
			globalThis.away = false;
			Object.defineProperty(document, "hidden", { get: () => away });
			globalThis.look = (there) => { away = !there; document.dispatchEvent(new Event("visibilitychange")); };`}))
	b.visit("/")
	b.await("No event yet")
	b.awaitThat(`streams.length === 1 && streams[0].readyState === EventSource.OPEN`)
	must[any](b, `look(false)`)
	b.awaitThat(`streams.every((s) => s.readyState === EventSource.CLOSED)`)
	create(t, s, "Nobody looks")
	must[any](b, `look(true)`)
	b.awaitThat(`location.pathname.startsWith("/tools/bridge/console/event/")`) // as if it had been looked at
	b.press("Find it in the audit log")
	b.press("Verify")
	b.await("verified, with this server's own key")
	b.visit("/console/subscriptions/notifications")
	b.fill("[name=reason]", "the sink moves")
	b.press("Pause notifications")
	b.await("paused it")
	must[any](b, `document.querySelector("[name=theme]").click()`)
	b.awaitThat(`document.documentElement.dataset.theme === "dark" && location.pathname === "/tools/bridge/console/subscriptions/notifications"`)
	if outside := must[string](b, `performance.getEntries().map((e) => e.name).filter((n) => n.startsWith("http") && !n.startsWith(location.origin + "/tools/bridge/")).join()`); outside != "" {
		t.Errorf("outside BASE_PATH: %s", outside)
	}
}

// attack is what a page of another port can try with the session of an operator, whose
// cookie is of the same site.
const attack = `<!doctype html><title>a page of somebody else</title><body><iframe name="frame"></iframe><script>
const base = %q, done = [];
const field = (form, name, value) => { const i = document.createElement("input"); i.name = name; i.value = value; form.append(i); };
const post = (path, target) => {
	const form = document.createElement("form");
	Object.assign(form, { method: "post", action: base + path, target });
	field(form, "reason", "because"); field(form, "subscription", "refused"); field(form, "kind", "ignore");
	document.body.append(form); form.submit();
};
(async () => {
	const ways = { method: "POST", mode: "no-cors", credentials: "include" };
	for (const path of ["console/subscriptions/audit/pause", "console/deadletters/plan", "subscriptions/audit/pause", "console/sign-out"]) {
		await fetch(base + path, { ...ways, body: new URLSearchParams({ reason: "because", subscription: "refused", kind: "ignore" }) }).catch(() => 0);
		await fetch(base + path, { ...ways, body: JSON.stringify({ reason: "because" }), headers: { "Content-Type": "text/plain" } }).catch(() => 0);
	}
	post("console/subscriptions/audit/pause", "frame");
	await new Promise((r) => setTimeout(r, 300));
	for (let i = 0; i < 12; i++) { fetch(base + "events", { mode: "no-cors", credentials: "include" }).catch(() => 0); new EventSource(base + "events", { withCredentials: true }); new Image().src = base + "console/audit?type=x" + i; }
	const frame = document.createElement("iframe");
	frame.src = base; document.body.append(frame);
	const answered = await fetch(base + "console/sign-in", { mode: "no-cors", signal: AbortSignal.timeout(5000) }).then(() => "free", () => "all connections are held");
	let read = "nothing";
	try { read = frame.contentDocument.body.innerText || read; } catch { }
	try { read = await (await fetch(base + "subscriptions", { credentials: "include" })).text(); } catch { }
	document.title = answered + ", " + read;
	globalThis.last = () => post("console/subscriptions/audit/pause", "_self");
})();
</script>`

// besiege has the browser, which is signed in, look at a page of somebody else.
func (b *tab) besiege(s *stack.Stack) {
	b.Helper()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		_, _ = fmt.Fprintf(w, attack, s.URL("bridge"))
	}))
	b.Cleanup(evil.Close)
	b.mu.Lock()
	before := len(b.complaint)
	b.mu.Unlock()
	b.do(chromedp.Navigate(evil.URL + "/"))
	b.awaitThat(`document.title.includes(", ")`)
	if title := must[string](b, "document.title"); title != "free, nothing" {
		b.Errorf("a page of somebody else found: %.300s", title)
	}
	must[any](b, "last()")
	b.awaitThat(`document.body.innerText.includes("a page of another site may not control the bridge")`)
	b.mu.Lock()
	b.complaint = b.complaint[:before] // of that page
	b.mu.Unlock()
	b.visit("/console/subscriptions/audit")
	b.await("Pause audit") // the session is still there, and the subscription is not paused
}
