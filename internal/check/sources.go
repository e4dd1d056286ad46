package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// database holds the committed rows against the log, both ways.
func (j *judge) database() error {
	rows := 0
	err := each(j.dir, "database.jsonl", func(r Row) error {
		if r.Table == TableTask {
			j.taskRow(r)
			return nil
		}
		rows++
		j.row(r)
		return nil
	})
	if err != nil {
		return err
	}
	j.rep.Work["rows"] = rows
	for i := range j.entries {
		if !j.entries[i].row {
			j.blame("PHANTOM", "no-row: the database never committed it", &j.entries[i])
		}
	}
	return nil
}

// taskRow: a change without an event shows only here. The tasks of a dump come
// behind its events, so that one that is lost is not told twice.
func (j *judge) taskRow(r Row) {
	t := j.task(r.Task)
	var last int64
	if int(t) < len(j.last) {
		last = j.last[t]
	}
	if r.Version > last && !j.lostTV[gap{t, r.Version}] {
		j.find(Finding{Rule: "LOST", Why: fmt.Sprintf("committed task: the log ends with version %d of it", last), Task: r.Task, Version: r.Version, Last: "task (no event)"})
	}
}

func (j *judge) row(r Row) {
	key := eventID(r.Source, r.Event)
	k, ok := j.byEvent[key]
	if !ok {
		j.lostTV[gap{j.task(r.Task), r.Version}] = true
		place := "outbox (published)"
		if r.Waiting {
			place = "outbox (waiting)"
		}
		j.lose(key, Finding{Why: "committed row", Nonce: r.Nonce, Event: r.Event, Task: r.Task, Version: r.Version, Last: place})
		return
	}
	e := &j.entries[k]
	e.row = true
	if e.nonce != idOf(r.Nonce) || e.version != r.Version || j.tasks[e.task] != idOf(r.Task) || e.data != idOf(r.Data) {
		j.blame("ALTERED", "row: the database has other content for this event", e)
	}
}

// lose reports a loss once, however many places show it.
func (j *judge) lose(event id, f Finding) {
	if _, known := j.lostEvent[event]; known {
		return
	}
	if at, known := j.lostNonce[idOf(f.Nonce)]; known {
		j.lostEvent[event] = at
		if at >= 0 {
			j.rep.Findings[at].Event, j.rep.Findings[at].Last = f.Event, f.Last
		}
		return
	}
	f.Rule = "LOST"
	j.lostEvent[event] = j.find(f)
}

// topic looks at the records in the order of the dump, which is by offset
// within a partition. Repeats are normal; a first occurrence out of order is not.
func (j *judge) topic() error {
	type seen struct {
		version   int64
		partition int32
	}
	last := map[int32]seen{}
	malformed, letters := map[string]Record{}, map[string]bool{}
	err := each(j.dir, "topic.jsonl", func(r Record) error {
		if r.Topic != j.run.Topic {
			j.rep.Work["dead-letters"]++
			if r.Group == j.run.Group {
				letters[r.Data] = true
			}
			return nil
		}
		j.rep.Work["records"]++
		if r.Malformed {
			if r.Data != "" { // older runs do not say
				malformed[r.Data] = r
			}
			return nil
		}
		key := eventID(r.Source, r.Event)
		k, ok := j.byEvent[key]
		if !ok {
			j.lostTV[gap{j.task(r.Task), r.Version}] = true
			j.lose(key, Finding{Why: "published record", Nonce: r.Nonce, Event: r.Event, Task: r.Task, Version: r.Version})
		} else if e := &j.entries[k]; e.data != idOf(r.Data) || e.version != r.Version {
			j.blame("ALTERED", fmt.Sprintf("record: partition %d offset %d has other content", r.Partition, r.Offset), e)
		}
		t := j.task(r.Task)
		s, known := last[t]
		switch {
		case known && s.partition != int32(r.Partition):
			j.find(Finding{Rule: "REORDERED", Why: "topic: a task on two partitions", Event: r.Event, Task: r.Task, Version: r.Version})
		case r.Version > s.version+1:
			j.find(Finding{Rule: "REORDERED", Why: fmt.Sprintf("topic: first occurrence after version %d", s.version), Event: r.Event, Task: r.Task, Version: r.Version})
		case r.Version <= s.version:
			j.rep.Work["republished"]++
			return nil
		}
		last[t] = seen{r.Version, int32(r.Partition)}
		return nil
	})
	for data, r := range malformed {
		if !letters[data] {
			j.find(Finding{Rule: "LOST", Why: "malformed: no dead letter of the group has this record", Last: fmt.Sprintf("topic %s partition %d offset %d", r.Topic, r.Partition, r.Offset)})
		}
	}
	return err
}

// partition is what is owed on one partition: for each offset of the dump, when
// the auditor's 2xx for it was first given to a bridge.
type partition struct {
	offsets []int64
	ackedAt []int64
}

func (j *judge) deliveries() error {
	parts := map[int]*partition{}
	err := each(j.dir, "topic.jsonl", func(r Record) error {
		if r.Topic != j.run.Topic || r.Malformed {
			return nil
		}
		p := parts[r.Partition]
		if p == nil {
			p = &partition{}
			parts[r.Partition] = p
		}
		p.offsets, p.ackedAt = append(p.offsets, r.Offset), append(p.ackedAt, never)
		return nil
	})
	if err != nil {
		return err
	}
	open := map[overlapKey]Delivery{}
	if err := each(j.dir, "deliveries.jsonl", func(d Delivery) error { j.delivery(d, parts, open); return nil }); err != nil {
		return err
	}
	j.earlyAcks()
	return j.commits(parts)
}

type overlapKey struct {
	via  string
	task id
}

func accepted(status int) bool { return status >= 200 && status < 300 }

func (j *judge) delivery(d Delivery, parts map[int]*partition, last map[overlapKey]Delivery) {
	j.rep.Work["posts"]++
	if d.Attempt > 1 {
		j.rep.Work["retries"]++
	}
	if d.Sink == 503 || d.Sink == 507 {
		j.rep.Work["refused-full"]++
	}
	if d.Sink == 200 {
		j.rep.Work["dedup-hits"]++
	}
	if accepted(d.Sink) {
		if k, ok := j.byEvent[eventID(d.Source, d.Event)]; ok {
			e := &j.entries[k]
			e.ackAt = min(e.ackAt, d.End)
		} else {
			j.find(Finding{Rule: "EARLY-ACK", Why: fmt.Sprintf("the auditor answered %d and does not have it", d.Sink), Event: d.Event, Task: d.Task})
		}
	}
	if accepted(d.Status) { // the file is in the order of the ends
		if j.lastDelivery > 0 {
			j.rep.Rate.Pause = max(j.rep.Rate.Pause, float64(d.End-j.lastDelivery)/1e9)
		}
		j.lastDelivery = d.End
	}
	if p := parts[d.Partition]; p != nil && accepted(d.Status) && accepted(d.Sink) {
		if i, ok := slices.BinarySearch(p.offsets, d.Offset); ok {
			if p.ackedAt[i] != never {
				j.rep.Work["redeliveries"]++
			}
			p.ackedAt[i] = min(p.ackedAt[i], d.End)
		}
	}
	j.overlap(d, parts[d.Partition], last)
}

// overlap: two answered posts of one key from one start of a bridge. The file is
// in the order of the ends, so that only the last one can reach into this one. A
// slow network may deliver a post late that the bridge gave up and repeated: the
// next offset may start once the lower one had its 2xx.
func (j *judge) overlap(d Delivery, p *partition, last map[overlapKey]Delivery) {
	if d.Status == 0 { // given up by the bridge: when that was, only the bridge knows
		return
	}
	key := overlapKey{d.Via, idOf(d.Task)}
	before, ok := last[key]
	if ok && before.Offset != d.Offset && d.Start < before.End && !p.acked(min(before.Offset, d.Offset), higher(before, d).Start) {
		j.find(Finding{Rule: "HOLE", Why: fmt.Sprintf("overlap: %s had offsets %d and %d of one key in flight", d.Via, before.Offset, d.Offset), Event: d.Event, Task: d.Task})
	}
	last[key] = d
}

func higher(a, b Delivery) Delivery {
	if a.Offset > b.Offset {
		return a
	}
	return b
}

// acked says whether an offset had its 2xx by then.
func (p *partition) acked(offset, by int64) bool {
	if p == nil {
		return false
	}
	i, ok := slices.BinarySearch(p.offsets, offset)
	return ok && p.ackedAt[i] <= by
}

// earlyAcks: what was acknowledged before an image was taken is in the image.
func (j *judge) earlyAcks() {
	earliest := make([]int64, len(j.entries)+1) // of the entries from here to the end
	earliest[len(j.entries)] = never
	for i := len(j.entries) - 1; i >= 0; i-- {
		earliest[i] = min(earliest[i+1], j.entries[i].ackAt)
	}
	for _, s := range j.snapshots {
		i := sort.Search(len(j.entries), func(i int) bool { return j.entries[i].end > s.Size })
		for ; earliest[i] < s.At; i++ {
			if j.entries[i].ackAt < s.At {
				j.blame("EARLY-ACK", fmt.Sprintf("acknowledged before the image of %d bytes, which lacks it", s.Size), &j.entries[i])
			}
		}
	}
}

// commits: whatever is committed had every lower offset answered before.
func (j *judge) commits(parts map[int]*partition) error {
	latest := map[int][]int64{} // of the offsets up to here
	for n, p := range parts {
		upTo := make([]int64, len(p.offsets))
		var high int64
		for i, at := range p.ackedAt {
			high = max(high, at)
			upTo[i] = high
		}
		latest[n] = upTo
	}
	return each(j.dir, "commits.jsonl", func(c Commit) error {
		j.rep.Work["commits"]++
		if c.Final && c.Offset < c.Log {
			j.find(Finding{Rule: "STUCK", Why: fmt.Sprintf("lag: partition %d is committed to %d of %d", c.Partition, c.Offset, c.Log)})
		}
		p := parts[c.Partition]
		if p == nil {
			return nil
		}
		below, _ := slices.BinarySearch(p.offsets, c.Offset)
		if below == 0 || latest[c.Partition][below-1] <= c.At {
			return nil
		}
		if j.rep.Violations["HOLE"] > maxFindings { // one hole shows in every later commit
			return nil
		}
		hole := slices.IndexFunc(p.ackedAt[:below], func(at int64) bool { return at > c.At })
		j.find(Finding{Rule: "HOLE", Why: fmt.Sprintf("commit: partition %d was committed to %d when offset %d had no 2xx", c.Partition, c.Offset, p.offsets[hole])})
		return nil
	})
}

// notices: what the notifier is owed it took at least once, or it lies among the
// dead letters of its group.
func (j *judge) notices() error {
	if len(j.run.Notify) == 0 {
		return nil
	}
	done := map[id]bool{}
	if err := each(j.dir, "notices.jsonl", func(d Delivery) error {
		if accepted(d.Sink) {
			j.rep.Work["notices"]++
			done[eventID(d.Source, d.Event)] = true
		}
		return nil
	}); err != nil {
		return err
	}
	if err := each(j.dir, "topic.jsonl", func(r Record) error {
		if r.Topic != j.run.Topic && r.Group == j.run.Notifier {
			done[eventID(r.Source, r.Event)] = true
		}
		return nil
	}); err != nil {
		return err
	}
	return each(j.dir, "topic.jsonl", func(r Record) error {
		if r.Topic == j.run.Topic && slices.Contains(j.run.Notify, r.Type) && !done[eventID(r.Source, r.Event)] {
			j.find(Finding{Rule: "LOST", Why: "notice: the notifier did not take it, and it is no dead letter", Event: r.Event, Task: r.Task, Version: r.Version, Last: fmt.Sprintf("topic %s partition %d offset %d", r.Topic, r.Partition, r.Offset)})
		}
		return nil
	})
}

// locate follows each loss through topic and deliveries. It reads again rather
// than keep what a good run never needs.
func (j *judge) locate() error {
	if len(j.lostEvent) == 0 {
		return nil
	}
	note := func(source, event, place string) {
		if at, ok := j.lostEvent[eventID(source, event)]; ok && at >= 0 {
			j.rep.Findings[at].Last = place
		}
	}
	err := each(j.dir, "topic.jsonl", func(r Record) error {
		note(r.Source, r.Event, fmt.Sprintf("topic %s partition %d offset %d", r.Topic, r.Partition, r.Offset))
		return nil
	})
	if err != nil {
		return err
	}
	return each(j.dir, "deliveries.jsonl", func(d Delivery) error {
		note(d.Source, d.Event, fmt.Sprintf("post of partition %d offset %d, attempt %d: auditor %d, bridge told %d", d.Partition, d.Offset, d.Attempt, d.Sink, d.Status))
		return nil
	})
}

func (j *judge) faults() error {
	all := map[string][]window{}
	err := each(j.dir, "faults.jsonl", func(f Fault) error {
		all[f.Kind] = append(all[f.Kind], window{f.At, f.Healed})
		s := j.rep.Faults[f.Kind]
		s.Planned++
		if f.Error == "" {
			s.Injected++
			if f.InFlight > 0 {
				s.Effective++
			}
			if f.Pair != "" {
				j.rep.Pairs[f.Pair]++
			}
		}
		if f.Healed > 0 {
			s.Healed++
		}
		if f.Recovered > 0 {
			s.Recovered++
			s.times = append(s.times, f.Recovered-f.Healed)
		}
		j.rep.Faults[f.Kind] = s
		return nil
	})
	j.rates(all)
	return err
}

// window is a time in which something was broken.
type window struct{ from, to int64 }

// rates holds the pace of acknowledgements under faults against the pace without.
func (j *judge) rates(broken map[string][]window) {
	slices.Sort(j.acks)
	if len(j.acks) == 0 {
		return
	}
	first, last := j.firstInvoke, j.acks[len(j.acks)-1]
	var all []window
	for kind, w := range broken {
		s := j.rep.Faults[kind]
		s.Rate = j.rate(w, last)
		j.rep.Faults[kind] = s
		all = append(all, w...)
	}
	slices.SortFunc(all, func(a, b window) int { return cmp.Compare(a.from, b.from) })
	between, at := []window{}, first
	for _, w := range all {
		if w.from > at {
			between = append(between, window{at, w.from})
		}
		at = max(at, w.to)
	}
	between = append(between, window{at, last})
	j.rep.Rate.Before, j.rep.Rate.During, j.rep.Rate.After = j.rate(between[:1], last), j.rate(all, last), j.rate(between[1:], last)
}

// rate is acknowledgements a second in the windows, which may overlap.
func (j *judge) rate(windows []window, last int64) float64 {
	windows = slices.Clone(windows)
	slices.SortFunc(windows, func(a, b window) int { return cmp.Compare(a.from, b.from) })
	var n int
	var long, at int64
	for _, w := range windows {
		from, to := max(w.from, at), min(w.to, last)
		if to <= from {
			continue
		}
		low, _ := slices.BinarySearch(j.acks, from)
		high, _ := slices.BinarySearch(j.acks, to)
		n, long, at = n+high-low, long+to-from, to
	}
	return float64(n) / max(1e-9, float64(long)/1e9)
}
