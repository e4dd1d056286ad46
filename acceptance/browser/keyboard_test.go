package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// keys types, as a person does who has no mouse.
func (b *tab) keys(keys string, options ...chromedp.KeyOption) {
	b.Helper()
	b.awaitThat(`document.documentElement.classList.contains("js")`)
	b.do(chromedp.KeyEvent(keys, options...))
}

// focused is what has the focus, by its label or its words, and why nobody could see
// that, "" when one can.
const focused = `(() => {
	const e = document.activeElement, style = getComputedStyle(e);
	const name = (e.labels?.[0]?.innerText || e.getAttribute("aria-label") || e.innerText || e.placeholder || e.tagName).trim();
	const at = e.getClientRects()[0];
	const left = Math.max(at.left, 0), right = Math.min(at.right, innerWidth), top = Math.max(at.top, 0), bottom = Math.min(at.bottom, innerHeight);
	let hidden = "";
	if (e === document.body) hidden = "nothing has the focus";
	else if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) hidden = "it has no outline";
	else if (left >= right || top >= bottom) hidden = "it is out of the window";
	else {
		const over = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
		if (!over || !(e.contains(over) || over.contains(e))) hidden = "it is covered by " + over?.outerHTML.slice(0, 80);
	}
	return [name, hidden];
})()`

// tabTo presses Tab until the focus is on what has these words, where it can be seen.
func (b *tab) tabTo(words string) {
	b.Helper()
	var passed []string
	for range 150 {
		b.keys(kb.Tab)
		now := must[[]string](b, focused)
		if strings.HasPrefix(now[0], words) {
			if now[1] != "" {
				b.Errorf("the focus on %q cannot be seen: %s", now[0], now[1])
			}
			return
		}
		passed = append(passed, now[0])
	}
	b.Fatalf("no Tab leads to %q, but to %q", words, passed)
}

// jump presses the two keys that lead to a page.
func (b *tab) jump(key, to string) {
	b.Helper()
	b.keys("g" + key)
	b.awaitThat("location.pathname === " + quoted(to))
}

// walk holds a page to this: Tab leads to everything that can be used, in the order in
// which it is read, and one sees where one is.
func (b *tab) walk(path string) {
	b.Helper()
	b.visit(path)
	if must[bool](b, `document.querySelector("[data-live]") !== null`) {
		b.keys("p") // what moves cannot be counted
		b.await("") // and what was on its way has arrived
	}
	n := must[int](b, `(globalThis.order = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
		.filter((e) => e.tabIndex >= 0 && !e.disabled && e.type !== "hidden" && e.checkVisibility())).length`)
	if n < 8 {
		b.Errorf("%s: only %d things to use", path, n)
	}
	for i := range n {
		b.keys(kb.Tab)
		at, now := must[int](b, `order.indexOf(document.activeElement)`), must[[]string](b, focused)
		if at != i || now[1] != "" {
			want := must[string](b, fmt.Sprintf(`order[%d].outerHTML.slice(0, 120)`, i))
			b.Errorf("%s: Tab %d leads to number %d, %q (%s), want %s", path, i+1, at, now[0], now[1], want)
			return
		}
	}
	b.keys(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift))
}

// A person without a mouse pauses and resumes a subscription, and delivers dead letters
// again: by Tab, Enter and Space alone or by the shortcuts.
func TestTheKeyboardAlone(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := open(t, s.URL("bridge"))
	b.visit("/console/subscriptions")
	b.await("Everything on the topic is delivered.")
	b.keys(kb.Tab)
	if now := must[[]string](b, focused); now[0] != "Skip to the content" || now[1] != "" {
		t.Errorf("the first Tab leads to %q, want the link that skips the navigation", now)
	}
	b.keys(kb.Enter)
	b.awaitThat(`location.hash === "#main"`)
	b.keys(kb.Tab)
	if now := must[[]string](b, focused); now[0] != "notifications" {
		t.Errorf("behind the skipped navigation is %q", now)
	}

	b.keys("?")
	b.awaitThat(`document.querySelector("#help").open && document.activeElement.innerText === "Close"`)
	b.look("60-keys")
	for range 3 { // the focus stays in the dialog, or goes to the browser's own bar
		b.keys(kb.Tab)
		if out := must[bool](b, `document.activeElement !== document.body && !document.querySelector("#help").contains(document.activeElement)`); out {
			t.Errorf("the focus leaves the dialog: %q", must[[]string](b, focused))
		}
	}
	b.keys(kb.Escape)
	b.awaitThat(`!document.querySelector("#help").open && document.activeElement.innerText === "notifications"`)

	b.keys("jj")
	b.awaitThat(`document.activeElement.innerText === "audit"`)
	b.keys("k")
	b.awaitThat(`document.activeElement.innerText === "notifications"`)
	b.keys(kb.Enter)
	b.await("Settings in force")
	b.tabTo("Reason")
	b.keys("the sink moves")
	b.tabTo("Your name")
	b.keys("Ada")
	b.enter("Pause notifications")
	b.await("Ada (console) from 127.0.0.1 paused it")
	b.tabTo("Resume notifications")
	b.keys(" ")
	b.await("Everything on the topic is delivered.")

	b.tabTo("For")
	b.keys(kb.ArrowDown + kb.ArrowDown) // 10 minutes
	b.tabTo("Answer 400")
	b.keys(" ")
	b.await("is made to answer 400")
	first := create(t, s, "First")
	create(t, s, "Second")
	create(t, s, "Third")
	b.await("400\n3")
	b.await("Lag\n0")
	b.enter("Mend it now")
	b.awaitThat(`!document.querySelector("main").innerText.includes("Mend it now")`)

	b.jump("d", "/console/deadletters") // one letter
	b.await("3 letters")
	b.keys("j" + kb.Enter)
	b.await("Why is it a dead letter?")
	b.enter("Redrive this letter")
	b.redrive("Redrive 1 letter")
	b.enter("Back to the dead letters")
	b.await("2 letters")

	b.keys("jx") // those that are selected
	b.awaitThat(`document.querySelector("tr.here input[type=checkbox]").checked`)
	b.enter("Redrive the selected")
	b.redrive("Redrive 1 letter")
	b.jump("d", "/console/deadletters")
	b.await("1 letter")
	b.enter("Redrive all") // and all
	b.redrive("Redrive 1 letter")

	b.jump("f", "/") // filter, and leave it
	b.keys("/")
	b.awaitThat(`document.activeElement.name === "type"`)
	b.keys("task.nothing" + kb.Enter)
	b.await("Nothing matches")
	b.enter("Show all")
	b.await("task.created")
	b.keys("p")
	b.awaitThat(`document.querySelector("#live").innerText === "Frozen"`)
	b.keys("p")
	b.keys("j")
	here := must[string](b, `document.activeElement.href`)
	change(t, s, first, `{"status":"completed"}`) // an event comes, and the focus stays
	b.await("1 new event")
	b.shot("61-new-event")
	if now := must[string](b, `document.activeElement.href`); now != here {
		t.Errorf("an event moves the focus from %s to %q", here, now)
	}

	b.jump("a", "/console/audit")
	b.await("4 entries")
	b.keys("j" + kb.Enter)
	b.await("not verified")
	b.enter("Verify")
	b.await("verified, with this server's own key")
	b.jump("t", "/console/try")
	b.tabTo("Title")
	b.enter("Create a task")
	b.await("What becomes of it")

	for _, path := range []string{"/", "/console/event/task-events/0/0", "/console/subscriptions", "/console/subscriptions/audit", "/console/deadletters?done=true", "/console/deadletters/notifications/0/0", "/console/audit", "/console/audit/entries/1", "/console/audit/tasks/" + first, "/console/try"} {
		b.walk(path)
	}
}

// enter tabs to what has these words, and presses Enter there.
func (b *tab) enter(words string) {
	b.Helper()
	b.tabTo(words)
	b.keys(kb.Enter)
}

// redrive confirms what was counted, and waits until it is done.
func (b *tab) redrive(words string) {
	b.Helper()
	b.await(words)
	b.enter(words)
	b.await("Delivered\n1")
	b.awaitThat(`document.querySelector("#job .state").innerText.includes("done")`)
}
