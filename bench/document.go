package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	documentPath = "docs/benchmarks.md"
	chartFolder  = "benchmarks" // beside the document
)

// publish puts the table of a section between its two comments in the document,
// and its chart beside it. What stands outside the comments stays as it is.
func publish(s section, t *table, machine string) error {
	name := s.name
	if realKafka() {
		name += "-kafka"
	}
	path := cmp.Or(s.document, documentPath)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	block := fmt.Sprintf("%s\n\n%s", repetitions(machine, t), t.markdown())
	if chart := t.chart(); chart != "" {
		folder := filepath.Join(filepath.Dir(path), chartFolder)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, name+".svg"), []byte(chart), 0o644); err != nil {
			return err
		}
		block += fmt.Sprintf("\n![%s: each figure against its goal](%s/%s.svg)\n", s.title, chartFolder, name)
	}
	return os.WriteFile(path, []byte(replaceBlock(string(text), name, s.title, block)), 0o644)
}

func repetitions(machine string, t *table) string {
	n := 0
	for _, r := range t.rows {
		n = max(n, len(r.values))
	}
	if n == 1 {
		return "Measured once on " + machine + "."
	}
	return fmt.Sprintf("Median of %d (lowest–highest) on %s.", n, machine)
}

// replaceBlock adds a heading and a block at the end when the document has none
// of that name yet.
func replaceBlock(text, name, title, block string) string {
	begin, end := "<!-- begin "+name+": written by make bench -->\n", "<!-- end "+name+" -->\n"
	before, rest, found := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return strings.TrimRight(text, "\n") + "\n\n## " + title + "\n\n" + begin + block + end
	}
	return before + begin + block + end + after
}

func (t *table) markdown() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	h := t.header()
	line(h)
	b.WriteString("|---" + strings.Repeat("|--:", 4) + strings.Repeat("|---", len(h)-5) + "|\n")
	for _, r := range t.rows {
		line(r.cells(t.base))
	}
	return b.String()
}
