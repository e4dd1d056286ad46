package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/stack"
)

var pictures = flag.String("pictures", "", "folder for a picture of each page, in each form")

//go:embed testdata/axe.min.js
var axe string

const patience = 30 * time.Second

// system starts everything that there is.
func system(t *testing.T) *stack.Stack {
	t.Helper()
	return systemWith(t, nil, func(*stack.Stack) env.Lookup { return env.Map(nil) })
}

// systemWith starts it with settings, which may name its addresses. log may be nil.
func systemWith(t *testing.T, log func(service string) *slog.Logger, settings func(*stack.Stack) env.Lookup) *stack.Stack {
	t.Helper()
	lookup := env.Map(nil)
	s, err := stack.Open(stack.Options{DataDir: t.TempDir(), PortBase: freeport.Base(), Breakable: true, Log: log, Env: func(key string) (string, bool) { return lookup(key) }})
	if err != nil {
		t.Fatal(err)
	}
	lookup = settings(s)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// tab is a page of a browser. What the browser complains of fails the test.
type tab struct {
	*testing.T
	ctx  context.Context
	base string // of the console, with a slash at its end

	mu        sync.Mutex
	complaint []string
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no Chromium: install it (apt install chromium, or brew install --cask chromium); the console is tested in it")
	return ""
}

// open starts a browser at base, which ends with the test.
func open(t *testing.T, base string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), // the sandbox refuses root, which CI is
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("hide-scrollbars", true), chromedp.WSURLReadTimeout(patience))
	allocated, release := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, closed := chromedp.NewContext(allocated)
	b := &tab{T: t, ctx: ctx, base: base}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // it may be gone
		closed()
		release()
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.complaint) > 0 {
			t.Errorf("the browser complains:\n%s", strings.Join(b.complaint, "\n"))
		}
	})
	ours, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	err = chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				b.complain("%s: %s", e.Entry.Source, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			b.complain("exception: %s", e.ExceptionDetails.Text)
		case *cdppage.EventJavascriptDialogOpening:
			b.complain("a dialog: %s", e.Message)
		case *network.EventRequestWillBeSent:
			if u, err := url.Parse(e.Request.URL); err != nil || u.Host != ours.Host && u.Scheme != "data" && u.Scheme != "about" {
				b.complain("a request to another host: %s", e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.do(call(log.Enable, cdp.Empty{}), call(network.Enable, network.EnableParams{}), chromedp.EmulateViewport(1280, 900))
	return b
}

func (b *tab) complain(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaint = append(b.complaint, fmt.Sprintf(format, args...))
}

// call makes an action of a command of the protocol.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.shot("failure")
		b.Fatalf("browser: %v\n%s", err, b.text())
	}
}

// eval is the value of an expression, or of its promise.
func eval[T any](b *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

func must[T any](b *tab, expression string) T {
	b.Helper()
	v, err := eval[T](b, expression)
	if err != nil {
		b.shot("failure")
		b.Fatalf("browser: %.200s: %v", expression, err)
	}
	return v
}

func (b *tab) visit(path string) {
	b.Helper()
	b.do(chromedp.Navigate(b.base + strings.TrimPrefix(path, "/")))
}

// text is what the page says now.
func (b *tab) text() string {
	text, _ := eval[string](b, `document.querySelector("main")?.innerText ?? ""`) // "" while it changes
	return text
}

// await waits until the page says something, by itself.
func (b *tab) await(what string) {
	b.Helper()
	b.awaitThat(fmt.Sprintf(`document.querySelector("main")?.innerText.includes(%s)`, quoted(what)))
}

func (b *tab) awaitThat(expression string) {
	b.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, err := eval[bool](b, "("+expression+") === true") // a page may be on its way to another one
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			b.shot("failure")
			b.Fatalf("the page does not come to %s (%v); it says\n%s", expression, err, b.text())
		}
		time.Sleep(20 * time.Millisecond) // the browser offers nothing to wait for
	}
}

// press clicks the button or link with these words.
func (b *tab) press(words string) {
	b.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll("button, a, summary")].find(e => e.offsetParent && e.innerText.trim().startsWith(%s))`, quoted(words))
	b.awaitThat(find + " !== undefined")
	must[any](b, find+".click()")
}

func (b *tab) fill(selector, value string) {
	b.Helper()
	must[any](b, fmt.Sprintf(`(e => { e.value = %s; e.dispatchEvent(new Event("change")) })(document.querySelector(%s))`, quoted(value), quoted(selector)))
}

func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(text)
}

// form is a way of looking at a page.
type form struct {
	name  string
	dark  bool
	width int64
}

var forms = []form{{"light", false, 1280}, {"dark", true, 1280}, {"phone", false, 360}}

// look takes a picture of the page in each form if pictures are wanted, and always
// holds it to axe's rules, light and dark, and to the width of the window.
func (b *tab) look(name string) {
	b.Helper()
	for _, f := range forms {
		scheme := "light"
		if f.dark {
			scheme = "dark"
		}
		height := int64(680) // no taller than what it shows, most of the time
		if f.width < 500 {
			height = 740
		}
		b.do(call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}),
			chromedp.EmulateViewport(f.width, height))
		b.shot(name + "-" + f.name)
		over := must[string](b, `document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120)).slice(0, 3).join("\n") || "something" : ""`)
		if over != "" {
			b.Errorf("%s, %s: wider than the window: %s", name, f.name, over)
		}
		if f.width > 500 { // the phone has the same elements and colours
			b.axe(name + ", " + f.name)
		}
	}
	b.do(chromedp.EmulateViewport(1280, 900), call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}))
}

// axe looks for serious faults. The policy of the page is off for it alone: axe makes
// markup, which the page itself must not.
func (b *tab) axe(where string) {
	b.Helper()
	type fault struct {
		ID, Impact, Help string
		Nodes            []struct{ HTML, FailureSummary string }
	}
	must[any](b, `globalThis.axe ? 0 : (() => { `+axe+` ; return 0 })()`)
	found := must[[]fault](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical"))`)
	for _, v := range found {
		b.Errorf("%s: axe %s (%s): %s\n%v", where, v.ID, v.Impact, v.Help, v.Nodes)
	}
}

func (b *tab) shot(name string) {
	if *pictures == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.Errorf("picture of %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), png, 0o600); err != nil {
		b.Error(err)
	}
}

func containsAny(text string, some ...string) bool {
	return slices.ContainsFunc(some, func(s string) bool { return strings.Contains(text, s) })
}
