package browser

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
)

// withoutScripts is a browser whose JavaScript is switched off. It still answers the
// expressions of the test.
func withoutScripts(t *testing.T, base string) *tab {
	t.Helper()
	b := open(t, base)
	b.do(call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	return b
}

// idle finds what only a script would bring to life, and what is there with nothing in it.
const idle = `(() => {
	const visible = (e) => e.checkVisibility() && e.getBoundingClientRect().height > 0;
	const words = (e) => e.innerText.trim() || e.value || e.querySelector("svg, progress, input, select, textarea");
	return [...document.querySelectorAll("button[type=button], .js-only, audit-verify")].filter(visible)
		.concat([...document.querySelectorAll("main section, main p, main a, main button, main dd, main th, main td, main li, main pre")].filter((e) => visible(e) && !words(e)))
		.map((e) => e.outerHTML.slice(0, 150)).join("\n");
})()`

// plain holds the page that is shown to what a reader without JavaScript needs.
func (b *tab) plain(where string, needsScript bool) {
	b.Helper()
	b.awaitThat(`document.readyState === "complete"`)
	if found := must[string](b, idle); found != "" {
		b.Errorf("%s, without JavaScript: it does nothing, or is empty:\n%s", where, found)
	}
	text := b.text()
	if must[string](b, `document.querySelector("h1")?.innerText ?? ""`) == "" || len(text) < 40 {
		b.Errorf("%s, without JavaScript: there is little to read:\n%s", where, text)
	}
	if says := strings.Contains(text, "JavaScript"); says != needsScript {
		b.Errorf("%s: it says that something needs JavaScript: %v, want %v:\n%s", where, says, needsScript, text)
	}
}

// until loads a page again and again, as its reader would.
func (b *tab) until(path, what string) {
	b.Helper()
	deadline := time.Now().Add(patience)
	for b.visit(path); !strings.Contains(b.text(), what); b.visit(path) {
		if time.Now().After(deadline) {
			b.Fatalf("%s does not come to %q; it says\n%s", path, what, b.text())
		}
		time.Sleep(50 * time.Millisecond) // nobody reloads faster
	}
}

// Every page is read, and every form posted, with JavaScript switched off. What needs a
// script says so.
func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := withoutScripts(t, s.URL("bridge"))
	b.visit("/")
	b.await("No event yet")
	b.plain("flow, empty", true)
	b.shot("40-plain-flow-empty")

	b.visit("/console/try")
	b.plain("try", true)
	b.fill("[name=title]", "By a form alone")
	b.press("Create a task")
	b.await("What becomes of it")
	b.plain("try, answered", true)
	b.shot("41-plain-try")
	id := must[string](b, `document.querySelector("[name=task]").value`)
	b.until("/", "201 in")
	b.plain("flow", true)
	b.press("task.created")
	b.await("Timeline")
	b.plain("event", true)
	b.press("Headers")
	b.await("content-type")
	b.plain("event, headers", true)
	b.press("Raw bytes")
	b.await("00000000")
	b.plain("event, bytes", true)
	b.press("Find it in the audit log")
	b.await("The line of the log")
	b.plain("entry", true)
	b.shot("42-plain-entry")
	b.press("All versions of its task")
	b.await("Version 1")
	b.plain("history", true)
	b.visit("/console/audit")
	b.plain("audit", true)
	b.fill("[name=q]", id)
	b.press("Find")
	b.await("Version 1")
	b.visit("/console/audit?q=nothing-like-it")
	b.await("Not found")
	b.plain("audit, nothing found", true)

	b.visit("/console/subscriptions")
	b.plain("subscriptions", true)
	b.press("notifications")
	b.await("Settings in force")
	b.plain("subscription", true)
	b.fill("[name=event]", `{"specversion":"1.0","id":"1","source":"s","type":"order.placed"}`)
	b.press("Explain")
	b.await("No, it is not delivered.")
	b.plain("subscription, explained", true)
	b.visit("/console/subscriptions/notifications")
	b.press("Pause notifications") // without a reason: the browser asks for it
	if must[bool](b, `document.querySelector("[name=reason]").checkValidity()`) {
		t.Error("a pause needs no reason")
	}
	b.fill("[name=reason]", "the sink moves")
	b.press("Pause notifications")
	b.await("paused it")
	b.plain("subscription, paused", true)
	b.press("Resume notifications")
	b.await("Pause notifications")
	b.fill("[name=for]", "10m")
	b.press("Answer 400")
	b.await("is made to answer 400")
	create(t, s, "Refused by the notifier")
	b.until("/console/deadletters", "rejected 400")
	b.plain("dead letters", true)
	b.visit("/console/subscriptions/notifications")
	b.press("Mend it now")
	b.awaitThat(`!document.querySelector("main").innerText.includes("Mend it now")`)

	b.visit("/console/deadletters?reason=exhausted")
	b.await("Nothing matches")
	b.plain("dead letters, nothing matches", true)
	b.visit("/console/deadletters")
	b.press("rejected 400")
	b.await("Why is it a dead letter?")
	b.plain("dead letter", true)
	b.press("Redrive this letter")
	b.awaitThat(`location.pathname.startsWith("/console/jobs/")`)
	b.until(must[string](b, "location.pathname"), "Redrive 1 letter")
	b.plain("redrive, counted", true)
	b.shot("43-plain-redrive")
	b.press("Redrive 1 letter")
	b.await("Delivered")
	b.until(must[string](b, "location.pathname"), "Back to the dead letters")
	b.await("Delivered\n1")
	b.plain("redrive, done", true)
	b.press("Back to the dead letters")
	b.await("No dead letter")
	b.plain("dead letters, none", true)

	b.visit("/console/nothing")
	b.plain("no such page", false)
	must[any](b, `document.querySelector("[name=theme]").click()`)
	b.awaitThat(`document.documentElement.dataset.theme === "dark"`)
}
