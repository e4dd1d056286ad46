package check

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// The three verdicts.
const (
	Green   = "GREEN"
	Red     = "RED"
	Invalid = "INVALID"
)

// Rules returns the names of all violations in the order they are printed.
func Rules() []string {
	return []string{"LOST", "DUPLICATED", "REORDERED", "PHANTOM", "ALTERED", "EARLY-ACK", "HOLE", "STUCK"}
}

// Report is the judgement of a run.
type Report struct {
	Verdict    string                 `json:"verdict"`
	Run        Run                    `json:"run"`
	Ops        OpFigures              `json:"ops"`
	Audit      AuditFigures           `json:"audit"`
	Violations map[string]int         `json:"violations"`
	Findings   []Finding              `json:"findings,omitempty"` // the first of each rule
	Work       map[string]int         `json:"work"`
	Faults     map[string]FaultFigure `json:"faults,omitempty"`
	Pairs      map[string]int         `json:"pairs,omitempty"` // faults of a connection, by its two ends
	Rate       RateFigures            `json:"rate"`
	TooLittle  []string               `json:"too_little,omitempty"`
	Kinds      map[string][2]int      `json:"kinds"` // operation kind: 2xx, 4xx
}

// OpFigures count operations by how they ended.
type OpFigures struct {
	Invoked int `json:"invoked"`
	OK      int `json:"ok"`
	Unread  int `json:"ok_unread"`
	Fail    int `json:"fail"`
	Info    int `json:"info"`
	Applied int `json:"info_applied"`
}

// AuditFigures describe the log.
type AuditFigures struct {
	Entries     int   `json:"entries"`
	Events      int   `json:"events"`
	Tasks       int   `json:"tasks"`
	LongestTask int64 `json:"longest_task"`
}

// FaultFigure counts one kind of fault.
type FaultFigure struct {
	Planned   int     `json:"planned"`
	Injected  int     `json:"injected"`
	Effective int     `json:"effective"` // with at least one operation in flight
	Healed    int     `json:"healed"`
	Recovered int     `json:"recovered"`
	Rate      float64 `json:"rate"` // acknowledgements per second meanwhile
	times     []int64
}

// RateFigures are acknowledgements per second: before the first fault, during
// faults, and between them.
type RateFigures struct {
	Before float64 `json:"before"`
	During float64 `json:"during"`
	After  float64 `json:"after"`
	Pause  float64 `json:"pause"` // the longest time without a delivery, in seconds
}

func newReport(run Run) *Report {
	r := &Report{Run: run, Violations: map[string]int{}, Work: map[string]int{}, Faults: map[string]FaultFigure{}, Pairs: map[string]int{}, Kinds: map[string][2]int{}}
	for _, rule := range Rules() {
		r.Violations[rule] = 0
	}
	maps.Copy(r.Work, run.Counts)
	return r
}

func (r *Report) tally(kind string, class int) {
	k := r.Kinds[kind]
	if class == 2 {
		k[0]++
	} else {
		k[1]++
	}
	r.Kinds[kind] = k
}

// figure returns a number for which a plan may set a minimum.
func (r *Report) figure(name string) int {
	switch name {
	case "acks":
		return r.Ops.OK + r.Ops.Unread
	case "info":
		return r.Ops.Info
	case "fail":
		return r.Ops.Fail
	case "rate-before":
		return int(r.Rate.Before)
	case "redeliveries":
		return r.Work["redeliveries"] + r.Work["retries"]
	}
	if kind, ok := strings.CutPrefix(name, "effective:"); ok {
		return r.Faults[kind].Effective
	}
	if kind, ok := strings.CutPrefix(name, "bitten:"); ok { // in older runs
		return r.Faults[kind].Effective
	}
	if kind, ok := strings.CutPrefix(name, "recovered:"); ok {
		return r.Faults[kind].Recovered
	}
	if pair, ok := strings.CutPrefix(name, "pair:"); ok {
		return r.Pairs[pair]
	}
	if kind, ok := strings.CutPrefix(name, "2xx:"); ok {
		return r.Kinds[kind][0]
	}
	if kind, ok := strings.CutPrefix(name, "4xx:"); ok {
		return r.Kinds[kind][1]
	}
	return r.Work[name]
}

func (r *Report) decide() {
	for _, name := range slices.Sorted(maps.Keys(r.Run.Need)) {
		if got := r.figure(name); got < r.Run.Need[name] {
			r.TooLittle = append(r.TooLittle, fmt.Sprintf("%s: %d of %d", name, got, r.Run.Need[name]))
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		if f := r.Faults[kind]; f.Effective < f.Planned || f.Recovered < f.Planned {
			r.TooLittle = append(r.TooLittle, fmt.Sprintf("%s: planned %d, injected %d, effective %d, recovered %d", kind, f.Planned, f.Injected, f.Effective, f.Recovered))
		}
	}
	r.Verdict = Green
	if len(r.TooLittle) > 0 {
		r.Verdict = Invalid
	}
	for _, n := range r.Violations {
		if n > 0 {
			r.Verdict = Red
		}
	}
}

// Text prints the report for a reader.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "run     seed %d build %s %s %.0f s\n", r.Run.Seed, r.Run.Build, r.Run.Topology, r.Run.Seconds)
	o := r.Ops
	fmt.Fprintf(&b, "ops     invoked %d ok %d ok? %d fail %d info %d (applied %d, not %d)\n", o.Invoked, o.OK, o.Unread, o.Fail, o.Info, o.Applied, o.Info-o.Applied)
	fmt.Fprintf(&b, "audit   entries %d ids %d tasks %d longest-task %d\n       ", r.Audit.Entries, r.Audit.Events, r.Audit.Tasks, r.Audit.LongestTask)
	for _, rule := range Rules() {
		fmt.Fprintf(&b, " %s %d", rule, r.Violations[rule])
	}
	b.WriteString("\n")
	list(&b, "work", r.Work)
	n := 0
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		f := r.Faults[kind]
		n += f.Effective
		fmt.Fprintf(&b, "fault   %-10s planned %d injected %d effective %d recovered %d%s, %.0f acks/s meanwhile; 0 of %d bounds the rate at %.3f\n",
			kind, f.Planned, f.Injected, f.Effective, f.Recovered, quantiles(f.times), f.Rate, f.Effective, bound(f.Effective))
	}
	for _, left := range r.Run.Left {
		fmt.Fprintf(&b, "fault   not injected: %s\n", left)
	}
	list(&b, "pairs", r.Pairs)
	list(&b, "limits", r.Run.Limits)
	fmt.Fprintf(&b, "service acks/s before the first fault %.0f, during faults %.0f, between faults %.0f; longest time without a delivery %.1f s\n",
		r.Rate.Before, r.Rate.During, r.Rate.After, r.Rate.Pause)
	if acks := r.figure("acks"); r.Broken() == "" {
		fmt.Fprintf(&b, "bound   0 of %d faults and 0 of %d changes: at 95 %% fewer than %.4f violations per fault and %.6f per change\n", n, acks, bound(n), bound(acks))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	for _, s := range r.TooLittle {
		fmt.Fprintf(&b, "  too little of %s\n", s)
	}
	fmt.Fprintf(&b, "verdict %s\n", r.Verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

// list prints figures by name on one line.
func list(b *strings.Builder, head string, figures map[string]int) {
	if len(figures) == 0 {
		return
	}
	fmt.Fprintf(b, "%-7s", head)
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		fmt.Fprintf(b, " %s %d", name, figures[name])
	}
	b.WriteString("\n")
}

// bound returns the highest rate that n trials without a violation leave possible at 95 %.
func bound(n int) float64 { return min(1, 3/float64(max(1, n))) }

func quantiles(times []int64) string {
	if len(times) == 0 {
		return ""
	}
	slices.Sort(times)
	at := func(q float64) time.Duration {
		return time.Duration(times[int(math.Ceil(q*float64(len(times))))-1]).Round(10 * time.Millisecond)
	}
	return fmt.Sprintf(", back after p50 %s p99 %s max %s", at(0.5), at(0.99), at(1))
}

// Broken returns the violated rules with their counts.
func (r *Report) Broken() string {
	var out []string
	for _, rule := range Rules() {
		if n := r.Violations[rule]; n > 0 {
			out = append(out, fmt.Sprintf("%s %d", rule, n))
		}
	}
	return strings.Join(out, ", ")
}
