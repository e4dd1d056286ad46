package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A table collects the repetitions of a section, row by row.
type table struct {
	title  string
	base   string // a commit that is measured as well, or ""
	ofBase bool   // figures are that commit's
	rows   []*row
}

// A row is one figure. Without a yardstick its goal is one for the figure
// itself, otherwise for the ratio of the two.
type row struct {
	what   string
	unit   unit
	goal   goal
	values []float64
	yards  []float64 // of the same repetitions; nil without a yardstick
	bases  []float64 // of the base
}

// A unit says how to print a figure.
type unit int

const (
	perSecond unit = iota
	seconds        // printed in s, ms or µs
	bytes_
	percent
	count
	average // printed with one digit
)

func (u unit) format(v float64) string {
	switch u {
	case perSecond:
		return grouped(v) + "/s"
	case seconds:
		d := time.Duration(v * 1e9)
		for _, step := range []time.Duration{time.Minute, time.Second, time.Millisecond} {
			if d >= step {
				return d.Round(step / 100).String()
			}
		}
		return d.Round(100 * time.Nanosecond).String()
	case bytes_:
		if v < 10<<20 {
			return fmt.Sprintf("%.1f MiB", v/(1<<20))
		}
		return grouped(v/(1<<20)) + " MiB"
	case percent:
		return fmt.Sprintf("%.1f %%", v)
	}
	if u == average {
		return fmt.Sprintf("%.1f", v)
	}
	return grouped(v)
}

// grouped prints a whole number in groups of three digits.
func grouped(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// A goal is a bound; the zero goal is none.
type goal struct {
	sign   string // ≥ or ≤
	bound  float64
	ofBase bool // times the base's figure
}

var none goal

func atLeast(bound float64) goal { return goal{sign: "≥", bound: bound} }
func atMost(bound float64) goal  { return goal{sign: "≤", bound: bound} }

// timesBase is a goal for runs with -base; without one there is no verdict.
func timesBase(times float64) goal { return goal{sign: "≥", bound: times, ofBase: true} }

// figure adds a figure without a yardstick.
func (t *table) figure(what string, u unit, value float64, g goal) { t.add(what, u, value, nil, g) }

// against adds a figure and its yardstick.
func (t *table) against(what string, u unit, value, yardstick float64, g goal) {
	t.add(what, u, value, &yardstick, g)
}

func (t *table) add(what string, u unit, value float64, yardstick *float64, g goal) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.what == what })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{what: what, unit: u, goal: g})
	}
	r := t.rows[i]
	if t.ofBase {
		r.bases = append(r.bases, value)
		return
	}
	r.values = append(r.values, value)
	if yardstick != nil {
		r.yards = append(r.yards, *yardstick)
	}
}

func (r *row) ratios() []float64 {
	out := make([]float64, len(r.yards))
	for i := range out {
		out[i] = r.values[i] / r.yards[i]
	}
	return out
}

// judged is what the goal is for: the ratios, the figures, or how many times the
// base's figure; nil when there is nothing to judge.
func (r *row) judged() []float64 {
	switch {
	case r.goal == none || r.goal.ofBase && len(r.bases) == 0:
		return nil
	case r.goal.ofBase:
		return []float64{median(r.values) / median(r.bases)}
	case r.yards != nil:
		return r.ratios()
	}
	return r.values
}

// met says whether the median reaches the goal, rounded as it is printed.
func (r *row) met() bool {
	m := math.Round(median(r.judged())*100) / 100
	if r.goal.sign == "≥" {
		return m >= r.goal.bound
	}
	return m <= r.goal.bound
}

func (r *row) goalText() string {
	switch {
	case r.goal == none:
		return ""
	case r.goal.ofBase:
		return fmt.Sprintf("%s %g × base", r.goal.sign, r.goal.bound)
	case r.yards != nil:
		return fmt.Sprintf("%s %g ×", r.goal.sign, r.goal.bound)
	}
	return r.goal.sign + " " + r.unit.format(r.goal.bound)
}

func (r *row) verdict() string {
	switch {
	case len(r.judged()) == 0:
		return ""
	case r.met():
		return "met"
	}
	return "missed"
}

// cells are the columns of a row, in the order of header.
func (r *row) cells(base string) []string {
	spread := func(v []float64, format func(float64) string) string {
		if len(v) == 0 {
			return ""
		}
		s := format(median(v))
		if lo, hi := format(slices.Min(v)), format(slices.Max(v)); lo != hi {
			s += " (" + lo + "–" + hi + ")"
		}
		return s
	}
	times := func(v float64) string { return fmt.Sprintf("%.2f ×", v) }
	cells := []string{r.what, spread(r.values, r.unit.format), spread(r.yards, r.unit.format), spread(r.ratios(), times), r.goalText(), r.verdict()}
	if base == "" {
		return cells
	}
	change := ""
	if b := median(r.bases); len(r.bases) > 0 && b != 0 {
		change = times(median(r.values) / b)
	}
	return append(cells, spread(r.bases, r.unit.format), change)
}

func (t *table) header() []string {
	h := []string{"", "figure", "yardstick", "ratio", "goal", ""}
	if t.base != "" {
		h = append(h, "base "+t.base, "of base")
	}
	return h
}

// text is the table for a terminal.
func (t *table) text() string {
	lines := [][]string{t.header()}
	for _, r := range t.rows {
		lines = append(lines, r.cells(t.base))
	}
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n== %s\n", t.title)
	for _, l := range lines {
		var out strings.Builder
		for i, c := range l {
			out.WriteString(c + strings.Repeat(" ", width[i]-len([]rune(c))+2))
		}
		b.WriteString("  " + strings.TrimRight(out.String(), " ") + "\n")
	}
	return b.String()
}

// median of an even number is the lower one of the two in the middle.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	return slices.Sorted(slices.Values(v))[(len(v)-1)/2]
}
