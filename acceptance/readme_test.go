package acceptance_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestThisReadmeIsComplete compares README.md here with the commands and the
// scripts that exist.
func TestThisReadmeIsComplete(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, manual, _ := strings.Cut(string(text), "\n| command |")
	described, listed, _ := strings.Cut(manual, "\n| script |")

	have := slices.DeleteFunc(slices.Collect(maps.Keys(commands())), func(name string) bool { return name == "await" })
	for _, form := range awaitForms() {
		have = append(have, "await "+form)
	}
	slices.Sort(have)
	if diff := cmp.Diff(have, firstCells(described, "^\\| `(await [^`]+|[\\w./-]+)")); diff != "" {
		t.Errorf("commands in README.md differ (-have +described):\n%s", diff)
	}

	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range scripts {
		scripts[i] = strings.TrimSuffix(filepath.Base(path), ".txtar")
	}
	if diff := cmp.Diff(scripts, firstCells(listed, "^\\| `(\\w+)")); diff != "" {
		t.Errorf("scripts in README.md differ (-have +listed):\n%s", diff)
	}
}

// firstCells returns, in order, what pattern finds in the rows of a table.
func firstCells(table, pattern string) (cells []string) {
	for _, m := range regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(table, -1) {
		cells = append(cells, m[1])
	}
	slices.Sort(cells)
	return cells
}

// TestReadmeCommandsAreRun checks that the script readme runs every curl command
// of the README, with its continuation lines.
func TestReadmeCommandsAreRun(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join("testdata", "script", "readme.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	commands, inside := 0, false
	for line := range strings.Lines(string(readme)) {
		text, isCode := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		continued := inside && strings.HasPrefix(text, "  ")
		inside = isCode && (strings.Contains(text, "curl ") || continued)
		if !inside {
			continue
		}
		commands++
		if !strings.Contains(string(script), strings.TrimSpace(text)) {
			t.Errorf("testdata/script/readme.txtar does not run this line of the README:\n%s", text)
		}
	}
	if commands < 10 {
		t.Errorf("%d lines of curl found in the README, want at least 10: is this the right file?", commands)
	}
}
