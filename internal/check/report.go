package check

import (
	"fmt"
	"io"
	"maps"
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

// Rules are all violations in the order they are printed.
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
	Injected  int `json:"injected"`
	Bitten    int `json:"bitten"` // with at least one operation in flight
	Healed    int `json:"healed"`
	Recovered int `json:"recovered"`
	times     []int64
}

func newReport(run Run) *Report {
	r := &Report{Run: run, Violations: map[string]int{}, Work: map[string]int{}, Faults: map[string]FaultFigure{}, Kinds: map[string][2]int{}}
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

// figure is a number that a plan can ask for.
func (r *Report) figure(name string) int {
	switch name {
	case "acks":
		return r.Ops.OK + r.Ops.Unread
	case "info":
		return r.Ops.Info
	case "fail":
		return r.Ops.Fail
	case "redeliveries":
		return r.Work["redeliveries"] + r.Work["retries"]
	}
	if kind, ok := strings.CutPrefix(name, "bitten:"); ok {
		return r.Faults[kind].Bitten
	}
	if kind, ok := strings.CutPrefix(name, "recovered:"); ok {
		return r.Faults[kind].Recovered
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

// Text prints the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "run     seed %d build %s %s %.0f s\n", r.Run.Seed, r.Run.Build, r.Run.Topology, r.Run.Seconds)
	o := r.Ops
	fmt.Fprintf(&b, "ops     invoked %d ok %d ok? %d fail %d info %d (applied %d, not %d)\n", o.Invoked, o.OK, o.Unread, o.Fail, o.Info, o.Applied, o.Info-o.Applied)
	fmt.Fprintf(&b, "audit   entries %d ids %d tasks %d longest-task %d\n       ", r.Audit.Entries, r.Audit.Events, r.Audit.Tasks, r.Audit.LongestTask)
	for _, rule := range Rules() {
		fmt.Fprintf(&b, " %s %d", rule, r.Violations[rule])
	}
	b.WriteString("\nwork   ")
	for _, name := range slices.Sorted(maps.Keys(r.Work)) {
		fmt.Fprintf(&b, " %s %d", name, r.Work[name])
	}
	b.WriteString("\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		f := r.Faults[kind]
		fmt.Fprintf(&b, "fault   %s: injected %d bitten %d healed %d recovered %d%s; 0 of %d bounds the rate at %.2f\n",
			kind, f.Injected, f.Bitten, f.Healed, f.Recovered, quantiles(f.times), f.Bitten, min(1, 3/float64(max(1, f.Bitten))))
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

func quantiles(times []int64) string {
	if len(times) == 0 {
		return ""
	}
	slices.Sort(times)
	at := func(q float64) time.Duration {
		return time.Duration(times[int(q*float64(len(times)-1))]).Round(10 * time.Millisecond)
	}
	return fmt.Sprintf(", back after p50 %s p99 %s max %s", at(0.5), at(0.99), at(1))
}

// Broken lists the rules that were violated, and how often.
func (r *Report) Broken() string {
	var out []string
	for _, rule := range Rules() {
		if n := r.Violations[rule]; n > 0 {
			out = append(out, fmt.Sprintf("%s %d", rule, n))
		}
	}
	return strings.Join(out, ", ")
}
