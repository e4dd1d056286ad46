package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Sizes of a chart in pixels.
const (
	chartWidth = 760
	labelWidth = 380
	barWidth   = 240 // up to chartEnd times the goal
	rowHeight  = 26
	chartEnd   = 2.0
)

// chart draws how each figure stands to its goal as SVG: the line is the goal,
// and longer is better in every row. Rows without a goal are left out; "" when
// none is left. It follows the reader's light or dark theme.
func (t *table) chart() string {
	rows := slices.DeleteFunc(slices.Clone(t.rows), func(r *row) bool { return len(r.judged()) == 0 })
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	height := len(rows)*rowHeight + 34
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n",
		chartWidth, height, chartWidth, height, html.EscapeString(t.title+": each figure against its goal"))
	b.WriteString(chartStyle)
	goal := labelWidth + barWidth/chartEnd
	for i, r := range rows {
		y := i*rowHeight + 6
		low, middle, high := r.score()
		class := "missed"
		if r.met() {
			class = "met"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-8, y+13, html.EscapeString(shorten(r.what, 56)))
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="16" rx="2"/>`+"\n", class, labelWidth, y, barLength(middle))
		fmt.Fprintf(&b, `<line class="spread" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n",
			labelWidth+barLength(low), labelWidth+barLength(high), y+8, y+8)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", labelWidth+barWidth+8, y+13, html.EscapeString(r.label()))
	}
	bottom := len(rows)*rowHeight + 4
	fmt.Fprintf(&b, `<line class="goal" x1="%.1f" x2="%.1f" y1="2" y2="%d"/>`+"\n", goal, goal, bottom)
	fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="end">goal</text>`+"\n", goal, bottom+16)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">longer is better →</text>`+"\n</svg>\n", labelWidth+barWidth, bottom+16)
	return b.String()
}

const chartStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.met { fill: #2da44e } .missed { fill: #bf8700 }
.spread { stroke: #1f2328; stroke-width: 2 } .goal { stroke: #57606a; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .spread { stroke: #e6edf3 } .goal { stroke: #9198a1 }
}
</style>
`

// score is the lowest, the median and the highest figure as shares of the goal,
// turned over where less is better.
func (r *row) score() (low, middle, high float64) {
	share := func(v float64) float64 {
		switch {
		case r.goal.sign == "≥":
			return v / r.goal.bound
		case v <= 0:
			return chartEnd
		}
		return r.goal.bound / v
	}
	v := r.judged()
	a, b := share(slices.Min(v)), share(slices.Max(v))
	return min(a, b), share(median(v)), max(a, b)
}

func barLength(share float64) float64 { return barWidth * math.Min(share, chartEnd) / chartEnd }

func (r *row) label() string {
	m := median(r.judged())
	if r.yards != nil || r.goal.ofBase {
		return fmt.Sprintf("%.2f ×", m)
	}
	return r.unit.format(m)
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
