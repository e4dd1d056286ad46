package check

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
)

// op is the part of an operation that is kept.
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

// histories lists the clients' files.
func histories(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "history-*.jsonl"))
	slices.Sort(names)
	return names, err
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
		o.fail = false // another attempt: its outcome counts
		o.learn(j, l)
		return nil
	}
	if !known {
		return fmt.Errorf("completion without an invoke: %s", l.Nonce)
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

// operations compares the histories with the log, in both directions.
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
		default: // info, or killed before it was written
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

// realTime checks that a change answered before another was sent has the lower version.
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
			j.blame("REORDERED", "realtime: a higher version was answered before this was sent", &j.entries[j.byNonce[o.nonce]])
		}
		earliest = min(earliest, o.completed)
	}
	j.ops, j.opByNonce, j.byNonce = nil, nil, nil // half of the memory, and no longer needed
	return nil
}
