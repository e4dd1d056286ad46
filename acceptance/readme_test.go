package acceptance_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadmeCommandsAreRun holds the README to what the script readme runs: a
// curl command there, with its continuation lines, must stand in the script.
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
			t.Errorf("the README shows this line, and testdata/script/readme.txtar does not run it:\n%s", text)
		}
	}
	if commands < 10 {
		t.Errorf("only %d lines of curl found in the README; this test looks at the wrong place", commands)
	}
}
