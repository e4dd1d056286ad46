package app_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
)

// aliasBomb is 300 bytes that a decoder turns into 10^9 strings.
func aliasBomb() string {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		before := "*" + string(c-1)
		text += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat(before+",", 10), ",") + "]\n"
	}
	return text + "subscriptions: *i\n"
}

func TestWhatAFileMayNotHold(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a tag":                {"subscriptions:\n  - types: !x\n", ":2:12: tags are not supported; quote a value that begins with an exclamation mark"},
		"an alias bomb":        {aliasBomb(), ":1:4: anchors and aliases are not supported; write the value out"},
		"an alias of itself":   {"topic: &a [*a]\n", ":1:8: anchors and aliases are not supported; write the value out"},
		"a merge key":          {"<<: {topic: a}\n", ":1:1: anchors and aliases are not supported; write the value out"},
		"a second document":    {example + "---\ntopic: other\n", ":19:1: a second document; the configuration is one"},
		"a document after one": {"---\n---\n" + example, ":2:1: a second document; the configuration is one"},
		"an empty second one":  {"topic: a\n---\n", ":2:1: a second document; the configuration is one"},
		"text after the end":   {"topic: a\n...\nb: c\n", ":3:1: a second document; the configuration is one"},
		"a directive":          {"%YAML 1.2\n---\ntopic: a\n", ":1:1: directives are not supported; delete the line"},
		"a byte order mark":    {"\ufeff" + example, ":1:1: begins with a byte order mark; save it as UTF-8 without one"},
		"UTF-16":               {"\xff\xfet\x00o\x00", ":1:1: begins with a byte order mark; save it as UTF-8 without one"},
		"Latin-1":              {"topic: caf\xe9\n", ": is not UTF-8"},
		"more than it may":     {example + strings.Repeat("# more\n", 128<<10/7), ": is larger than 128 KiB"},
		"brackets":             {"topic: " + strings.Repeat("[", 30<<10), ":1:40: more than 32 levels within each other"},
		"braces":               {strings.Repeat("{a: ", 30<<10), ":1:129: more than 32 levels within each other"},
		"dashes":               {strings.Repeat("- ", 30<<10), ":1:65: more than 32 levels within each other"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			if diff := cmp.Diff([]string{"BRIDGE_CONFIG: " + path + c.want}, mistakes(t, path)); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

// secret stands in an address where a mistake beside it makes the file unreadable.
const secret = "http://user:hunter2@sink/?token=hunter2"

func TestNoErrorRepeatsWhatTheFileHolds(t *testing.T) {
	for _, text := range []string{
		"subscriptions:\n  - name: a\n    sink: \"" + secret + "\n",
		"subscriptions:\n  - name: a\n    sink:" + secret + "\n",
		"subscriptions:\n  - name: a\n    sink:" + secret + "\n    group: g\n",
		"subscriptions:\n  - " + secret + "\n",
		"subscriptions: " + secret + "\n",
		"subscriptions:\n  - {name: a, sink: " + secret + "\n",
		"subscriptions:\n  - {name: a, group: g, sink: '" + secret + "'}\n",
		"subscriptions:\n  - {name: a, timeout: '" + secret + "', retry: '" + secret + "'}\n",
		"subscriptions:\n  - {name: a, filters: [{exact: {'" + secret + "': ''}, '" + secret + "': a}]}\n",
		"\"" + secret + "\": 1\n\"" + secret + "\": 1\n",
		"sink: |" + secret + "\n  a\n",
		"sink: >- " + secret + "\n  a\n",
		"sink: @" + secret + "\n",
		"sink: !" + secret + " a\n",
		"sink: *" + secret + "\n",
		"%YAML " + secret + "\n---\na: 1\n",
		"%TAG " + secret + "\n---\na: 1\n",
		"sink: \"\\" + secret + "\"\n",
		"sink: a\n\t" + secret + "\n",
		"? " + secret + "\n",
		"topic: '" + secret + "'\n",
	} {
		for _, m := range mistakes(t, write(t, text)) {
			if strings.Contains(m, "hunter2") || strings.Contains(m, "\n") {
				t.Errorf("%q: the mistake repeats it, or is more than a line:\n%s", text, m)
			}
		}
	}
}

// FuzzFile: no file makes the loader panic or hang, and no error repeats an address in it.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		example, aliasBomb(), "types: !x", "a: &a [*a]", "? a\n: b\n", "- - - a", "topic: |\n  a\n", "%YAML 1.2\n---\ntopic: a\n...\n", "{a: [b, {c: d}]}", "\ufeff",
		"subscriptions:\n- sink: " + secret + "\n  timeout: " + secret + "\n", "a: 'b\n", "a: \"\\x4", "\"\\@", "a: !!binary b", "0x: .inf", "subscriptions: [{filters: [{not: {not: {}}}]}]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		watchdog := time.AfterFunc(10*time.Second, func() { panic(fmt.Sprintf("the loader hangs at %q", text)) })
		defer watchdog.Stop()
		subscriptions, wrong, err := app.Parse(text)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		for _, w := range wrong {
			if !strings.HasPrefix(w, "bridge.yaml:") || strings.Contains(w, "://") || strings.ContainsAny(strings.ReplaceAll(w, "'@'", ""), "\n@") {
				t.Errorf("error of %q: %q", text, w)
			}
		}
		if err != nil && len(subscriptions) > 0 {
			t.Errorf("%q: %d subscriptions with the error %v", text, len(subscriptions), err)
		}
	})
}

func TestAFileThatNeverEndsIsTooLarge(t *testing.T) {
	if _, err := os.Stat("/dev/zero"); err != nil {
		t.Skip("no /dev/zero")
	}
	want := []string{"BRIDGE_CONFIG: /dev/zero: is larger than 128 KiB"}
	if diff := cmp.Diff(want, mistakes(t, "/dev/zero")); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

// A file of mistakes is refused in little time and in few lines.
func TestMistakesAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"wrong types":   "subscriptions: [" + strings.Repeat("a,", 60<<10) + "a]",
		"unknown keys":  strings.Repeat("x: 1\n", 3) + "subscriptions:\n" + strings.Repeat("  - {y: 1}\n", 8<<10),
		"empty entries": "subscriptions: [" + strings.Repeat("{},", 40<<10) + "{}]",
		"no numbers":    "subscriptions: [{name: a, group: g, sink: 'http://localhost/', rate: .nan, retry: {multiplier: .nan}}]",
	} {
		path := filepath.Join(t.TempDir(), "bridge.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path}))
		var wrong *env.Error
		if !errors.As(err, &wrong) || len(wrong.Mistakes) > 202 {
			t.Errorf("%s: %d mistakes, %T; want 1 to 202", name, len(wrong.Mistakes), err)
		}
	}
}
