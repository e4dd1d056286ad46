package check

import (
	"fmt"
	"math"
)

const (
	never       = math.MaxInt64
	maxFindings = 200 // kept for each rule; the rest is counted
)

type judge struct {
	dir string
	run Run
	rep *Report

	taskIndex map[id]int32
	tasks     []id
	kinds     []string

	entries     []entry
	lineNumber  int
	chainBroken bool
	byNonce     map[id]int32
	byEvent     map[id]int32

	ops         []op
	opByNonce   map[id]int32
	acks        []int64 // time of each 2xx
	firstInvoke int64

	lastDelivery int64

	last      []int64 // version of each task in the log
	snapshots []Snapshot
	gaps      []gap
	lostTV    map[gap]bool
	lostEvent map[id]int // index of the finding, for where it was last seen
	lostNonce map[id]int
}

// Dir judges the run kept in dir. An error means that it cannot be read; what is
// wrong with the run is in the report.
func Dir(dir string) (*Report, error) {
	run, err := readRun(dir)
	if err != nil {
		return nil, err
	}
	j := &judge{dir: dir, run: run, rep: newReport(run), taskIndex: map[id]int32{}, lostTV: map[gap]bool{}, lostEvent: map[id]int{}, lostNonce: map[id]int{}}
	for _, step := range []func() error{
		j.readSnapshots, j.readLog, j.once, j.readHistories, j.operations, j.realTime,
		j.database, j.topic, j.deliveries, j.notices, j.unfilled, j.locate, j.faults,
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("judge %s: %w", dir, err)
		}
	}
	if !run.Drained {
		j.find(Finding{Rule: "STUCK", Why: "the drain did not end: " + run.Stuck})
	}
	if run.Unproved != "" {
		j.find(Finding{Rule: "ALTERED", Why: "tree: " + run.Unproved})
	}
	j.rep.decide()
	return j.rep, nil
}

func (j *judge) find(f Finding) int {
	j.rep.Violations[f.Rule]++
	if j.rep.Violations[f.Rule] > maxFindings {
		return -1
	}
	j.rep.Findings = append(j.rep.Findings, f)
	return len(j.rep.Findings) - 1
}

func (j *judge) task(name string) int32 {
	key := idOf(name)
	i, ok := j.taskIndex[key]
	if !ok {
		i = int32(len(j.tasks))
		j.taskIndex[key] = i
		j.tasks = append(j.tasks, key)
	}
	return i
}

func (j *judge) taskName(i int32) string {
	if i < 0 {
		return ""
	}
	return j.tasks[i].String()
}

func (j *judge) of(e *entry) Finding {
	return Finding{Nonce: e.nonce.String(), Event: e.event.String(), Task: j.taskName(e.task), Version: e.version}
}

func (j *judge) blame(rule, why string, e *entry) {
	f := j.of(e)
	f.Rule, f.Why = rule, why
	j.find(f)
}
