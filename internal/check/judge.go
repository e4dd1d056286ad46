package check

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sort"
)

const (
	never       = math.MaxInt64
	maxFindings = 200 // kept of each rule; the rest is counted
)

// op is what is kept of an operation.
type op struct {
	nonce                  id
	state                  id
	invoked, completed     int64 // first invoke, first ok
	version                int64 // as answered; 0 = unknown
	task                   int32 // -1 = unknown
	kind                   uint8
	ok, unread, fail, info bool
	effect                 byte // 'y', 'n' or 0
	hasState               bool
	lost                   bool // reported already
}

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
	acks        []int64 // when each 2xx came
	firstInvoke int64

	lastDelivery int64

	last      []int64 // version of each task in the log
	snapshots []Snapshot
	gaps      []gap
	lostTV    map[gap]bool
	lostEvent map[id]int // finding index, to be told where it was last seen
	lostNonce map[id]int
}

type gap struct {
	task    int32
	version int64
}

// Dir judges the run kept in dir. The error is about reading it; what is wrong
// with the run is in the report.
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

func (j *judge) readSnapshots() error {
	err := each(j.dir, "snapshots.jsonl", func(s Snapshot) error { j.snapshots = append(j.snapshots, s); return nil })
	slices.SortStableFunc(j.snapshots, func(a, b Snapshot) int { return int(a.Size - b.Size) })
	j.rep.Work["snapshots"] = len(j.snapshots)
	return err
}

// once walks the log in file order: each thing once, versions 1, 2, 3.
func (j *judge) once() error {
	j.byNonce = make(map[id]int32, len(j.entries))
	j.byEvent = make(map[id]int32, len(j.entries))
	last := make([]int64, len(j.tasks))
	missing := map[gap]bool{}
	for i := range j.entries {
		e := &j.entries[i]
		if k, twice := j.byEvent[e.event]; twice {
			j.blame("DUPLICATED", fmt.Sprintf("event: in lines %d and %d", k+1, i+1), e)
			if first := &j.entries[k]; first.data != e.data || first.nonce != e.nonce || first.version != e.version || first.task != e.task {
				j.blame("ALTERED", "same event id with other content", e)
			}
			e.row = true // said already
			continue
		}
		j.byEvent[e.event] = int32(i)
		if k, twice := j.byNonce[e.nonce]; twice {
			j.blame("DUPLICATED", fmt.Sprintf("nonce: in lines %d and %d", k+1, i+1), e)
		} else {
			j.byNonce[e.nonce] = int32(i)
		}
		j.inOrder(e, last, missing)
	}
	for g := range missing {
		j.gaps = append(j.gaps, g)
	}
	j.last = last
	j.rep.Audit = AuditFigures{Entries: len(j.entries), Events: len(j.byEvent), Tasks: len(j.tasks), LongestTask: slices.Max(append(last, 0))}
	return nil
}

func (j *judge) inOrder(e *entry, last []int64, missing map[gap]bool) {
	v, before := e.version, last[e.task]
	switch here := (gap{e.task, v}); {
	case v == before+1:
		last[e.task] = v
	case v > before:
		// Whether what is missing is lost or late shows later.
		for m := before + 1; m < v && m < before+1000; m++ {
			missing[gap{e.task, m}] = true
		}
		last[e.task] = v
	case missing[here]:
		delete(missing, here)
		j.blame("REORDERED", fmt.Sprintf("inversion: after version %d", before), e)
	default:
		j.blame("DUPLICATED", fmt.Sprintf("version: of this task, after %d", before), e)
	}
}

// unfilled reports the gaps that no loss explains.
func (j *judge) unfilled() error {
	for _, g := range j.gaps {
		if !j.lostTV[g] {
			j.find(Finding{Rule: "REORDERED", Why: "gap: this version is nowhere", Task: j.taskName(g.task), Version: g.version})
		}
	}
	return nil
}

func (j *judge) readHistories() error {
	names, err := histories(j.dir)
	if err != nil {
		return err
	}
	j.opByNonce = make(map[id]int32, len(j.entries))
	for _, name := range names {
		if err := each(j.dir, filepath.Base(name), j.addOp); err != nil {
			return err
		}
	}
	return nil
}

func (j *judge) kind(name string) uint8 {
	i := slices.Index(j.kinds, name)
	if i < 0 {
		i = len(j.kinds)
		j.kinds = append(j.kinds, name)
	}
	return uint8(i)
}

func (j *judge) addOp(l Op) error {
	key := idOf(l.Nonce)
	i, known := j.opByNonce[key]
	if l.Phase == Invoke {
		if j.firstInvoke == 0 || l.At < j.firstInvoke {
			j.firstInvoke = l.At
		}
		if !known {
			o := op{nonce: key, invoked: l.At, completed: never, task: -1, kind: j.kind(l.Kind)}
			j.opByNonce[key] = int32(len(j.ops))
			j.ops = append(j.ops, o)
			i = int32(len(j.ops) - 1)
		}
		o := &j.ops[i]
		o.fail = false // a further try: what the last one proved is history
		o.learn(j, l)
		return nil
	}
	if !known {
		return fmt.Errorf("a completion without an invoke: %s", l.Nonce)
	}
	o := &j.ops[i]
	switch l.Phase {
	case OK, OKUnread:
		o.ok = o.ok || l.Phase == OK
		o.unread = o.unread || l.Phase == OKUnread
		o.completed = min(o.completed, l.At)
		j.acks = append(j.acks, l.At)
		o.learn(j, l)
		j.rep.tally(j.kinds[o.kind], 2)
	case Fail:
		o.fail = true
		if l.Status >= 400 {
			j.rep.tally(j.kinds[o.kind], 4)
		}
	case Info:
		o.info = true
	default:
		return errors.New("unknown phase " + l.Phase)
	}
	return nil
}

func (o *op) learn(j *judge, l Op) {
	if l.Task != "" {
		o.task = j.task(l.Task)
	}
	if l.State != "" {
		o.state, o.hasState = idOf(l.State), true
	}
	if l.Version != 0 {
		o.version = l.Version
	}
	if l.Effect != "" {
		o.effect = l.Effect[0]
	}
}

// operations holds each history against the log, both ways.
func (j *judge) operations() error {
	f := &j.rep.Ops
	for i := range j.ops {
		o := &j.ops[i]
		k, present := j.byNonce[o.nonce]
		f.Invoked++
		switch {
		case o.ok || o.unread:
			if o.ok {
				f.OK++
			} else {
				f.Unread++
			}
			j.acknowledged(o, k, present)
		case o.fail && !o.info:
			f.Fail++
			if present {
				j.blame("PHANTOM", "after-fail: the "+j.kinds[o.kind]+" was refused", &j.entries[k])
			}
			continue
		default: // info, or killed before it could say so
			f.Info++
			if present {
				f.Applied++
			}
		}
		if present {
			j.sameAs(o, &j.entries[k])
		}
	}
	for i := range j.entries {
		if _, known := j.opByNonce[j.entries[i].nonce]; !known {
			j.blame("PHANTOM", "never: no client invoked it", &j.entries[i])
		}
	}
	return nil
}

func (j *judge) acknowledged(o *op, k int32, present bool) {
	switch {
	case !present && o.effect == 'y':
		o.lost = true
		j.lostNonce[o.nonce] = j.find(Finding{Rule: "LOST", Why: "acknowledged " + j.kinds[o.kind], Nonce: o.nonce.String(), Task: j.taskName(o.task), Version: o.version, Last: "client (2xx)"})
		j.lostTV[gap{o.task, o.version}] = true
	case present && o.effect == 'n':
		j.blame("PHANTOM", "no-change: the "+j.kinds[o.kind]+" changed nothing", &j.entries[k])
	}
}

func (j *judge) sameAs(o *op, e *entry) {
	switch {
	case o.task >= 0 && o.task != e.task:
		j.blame("ALTERED", "task: the client changed "+j.taskName(o.task), e)
	case o.version != 0 && o.version != e.version && o.effect == 'y':
		j.blame("ALTERED", fmt.Sprintf("version: the client was answered %d", o.version), e)
	case o.hasState && o.state != e.state:
		j.blame("ALTERED", "hash: not the state that the client made", e)
	}
}

// realTime: what was answered before another was asked has the lower version.
func (j *judge) realTime() error {
	type done struct {
		task int32
		op   int32
		v    int64
	}
	all := make([]done, 0, len(j.ops))
	for i := range j.ops {
		if k, ok := j.byNonce[j.ops[i].nonce]; ok {
			all = append(all, done{j.entries[k].task, int32(i), j.entries[k].version})
		}
	}
	sort.Slice(all, func(a, b int) bool { // highest version of a task first
		if all[a].task != all[b].task {
			return all[a].task < all[b].task
		}
		return all[a].v > all[b].v
	})
	earliest, task := int64(never), int32(-1)
	for _, d := range all {
		if d.task != task {
			earliest, task = never, d.task
		}
		o := &j.ops[d.op]
		if earliest < o.invoked {
			j.blame("REORDERED", "realtime: a higher version was answered before this was asked", &j.entries[j.byNonce[o.nonce]])
		}
		earliest = min(earliest, o.completed)
	}
	j.ops, j.opByNonce, j.byNonce = nil, nil, nil // half of the memory, and nothing asks for them any more
	return nil
}
