package check

import (
	"fmt"
	"slices"
	"sort"
)

// partition has, for each offset of one partition, the time at which a bridge
// first got the auditor's 2xx for it.
type partition struct {
	offsets []int64
	ackedAt []int64
}

// acked reports whether an offset had its 2xx at the time by.
func (p *partition) acked(offset, by int64) bool {
	if p == nil {
		return false
	}
	i, ok := slices.BinarySearch(p.offsets, offset)
	return ok && p.ackedAt[i] <= by
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
	if accepted(d.Status) { // the file is ordered by End
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

type overlapKey struct {
	via  string
	task id
}

// overlap finds two answered posts of one key, from one start of a bridge, that
// were in flight together. The file is ordered by End, so that only the previous
// one can overlap with this one. A slow network may deliver a post late that the
// bridge gave up and repeated: the next offset may start once the lower one had
// its 2xx.
func (j *judge) overlap(d Delivery, p *partition, last map[overlapKey]Delivery) {
	if d.Status == 0 { // the bridge gave up at a time that only it knows
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

// earlyAcks checks that a snapshot has everything acknowledged before it was taken.
func (j *judge) earlyAcks() {
	earliest := make([]int64, len(j.entries)+1) // acknowledgement of the entries from here on
	earliest[len(j.entries)] = never
	for i := len(j.entries) - 1; i >= 0; i-- {
		earliest[i] = min(earliest[i+1], j.entries[i].ackAt)
	}
	for _, s := range j.snapshots {
		i := sort.Search(len(j.entries), func(i int) bool { return j.entries[i].end > s.Size })
		for ; earliest[i] < s.At; i++ {
			if j.entries[i].ackAt < s.At {
				j.blame("EARLY-ACK", fmt.Sprintf("acknowledged before the snapshot of %d bytes, which lacks it", s.Size), &j.entries[i])
			}
		}
	}
}
