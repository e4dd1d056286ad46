package check

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// entry is the part of an audit log line that is kept.
type entry struct {
	nonce, event id
	data, state  id
	end          int64 // byte after the line
	version      int64
	ackAt        int64 // time of the auditor's first 2xx for it
	task         int32
	row          bool // the database has it
}

// logLine is a line as the contract has it; pointers distinguish a missing member from an empty one.
type logLine struct {
	Seq      int64           `json:"seq"`
	Event    string          `json:"event_id"`
	Type     string          `json:"event_type"`
	Occurred *string         `json:"occurred_at"`
	Data     json.RawMessage `json:"data"`
	Base64   *string         `json:"data_base64"`
	Meta     *struct {
		Nonce  string `json:"correlation_id"`
		Source string `json:"source"`
	} `json:"metadata"`
	Attributes *struct {
		Subject string `json:"subject"`
		Version int64  `json:"taskversion"`
	} `json:"attributes"`
	Audited string `json:"audited_at"`
}

// taskData is the data of an event: exactly these four.
type taskData struct {
	Task   string  `json:"task_id"`
	Title  string  `json:"title"`
	Status string  `json:"status"`
	Owner  *string `json:"owner_id"`
}

func (d taskData) state() string {
	owner := ""
	if d.Owner != nil {
		owner = *d.Owner
	}
	return State(d.Title, d.Status, owner)
}

func (j *judge) readSnapshots() error {
	err := each(j.dir, "snapshots.jsonl", func(s Snapshot) error { j.snapshots = append(j.snapshots, s); return nil })
	slices.SortStableFunc(j.snapshots, func(a, b Snapshot) int { return int(a.Size - b.Size) })
	j.rep.Work["snapshots"] = len(j.snapshots)
	return err
}

// readLog indexes audit.log and compares it with the snapshots.
func (j *judge) readLog() error {
	hash := sha256.New()
	var at int64
	shots := j.snapshots
	compare := func() {
		for len(shots) > 0 && shots[0].Size == at {
			if got := hex.EncodeToString(hash.Sum(nil)); got != shots[0].Sum {
				j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("prefix: the first %d bytes of audit.log were different during the run", at)})
			}
			shots = shots[1:]
		}
	}
	compare()
	// Full segments first: their names are the log's and the number of their first entry.
	names, err := filepath.Glob(filepath.Join(j.dir, "audit.log."+strings.Repeat("[0-9]", 12)))
	if err != nil {
		return err
	}
	j.rep.Work["segments"] = len(names)
	for _, name := range append(names, filepath.Join(j.dir, "audit.log")) {
		err := lines(name, func(line []byte) error {
			hash.Write(line)
			at += int64(len(line))
			compare()
			j.addLine(line, at)
			return nil
		}, func([]byte) {
			j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("torn: audit.log has no line feed after byte %d", at)})
		})
		if err != nil {
			return err
		}
	}
	for _, s := range shots {
		j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("prefix: audit.log had a line that ended at byte %d and is %d bytes long now", s.Size, at)})
	}
	return nil
}

// addLine adds a line; one that cannot be parsed is a finding and no entry.
func (j *judge) addLine(line []byte, end int64) {
	number := j.lineNumber
	j.lineNumber++
	var l logLine
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&l); err != nil || l.Meta == nil || l.Attributes == nil || l.Event == "" || l.Audited == "" {
		j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("line: audit.log line %d is not an entry (%v)", number+1, err)})
		return
	}
	if l.Seq != int64(number+1) {
		if !j.chainBroken { // one missing line renumbers all that follow
			j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("chain: audit.log line %d has seq %d", number+1, l.Seq), Event: l.Event})
		}
		j.chainBroken = true
	}
	e := entry{nonce: idOf(l.Meta.Nonce), event: eventID(l.Meta.Source, l.Event), end: end, version: l.Attributes.Version,
		task: j.task(l.Attributes.Subject), ackAt: never, data: idOf(Sum(l.Data))}
	var d taskData
	strict := json.NewDecoder(bytes.NewReader(l.Data))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d); err != nil || d.Task != l.Attributes.Subject {
		j.find(Finding{Rule: "ALTERED", Why: "data: not the four members of a task, or another task's", Event: l.Event, Task: l.Attributes.Subject})
	}
	e.state = idOf(d.state())
	j.entries = append(j.entries, e)
}

// once checks, in file order, that nothing appears twice and that versions are 1, 2, 3.
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
			e.row = true // reported already
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
		// Later lines show whether the missing versions are lost or late.
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

type gap struct {
	task    int32
	version int64
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
