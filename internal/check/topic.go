package check

import "fmt"

// topic checks the records in the order of the dump, which is by offset within a
// partition. Repeats are normal; a first occurrence out of order is not.
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
			if r.Data != "" { // older runs lack it
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
			j.find(Finding{Rule: "LOST", Why: "malformed: the group has no dead letter for this record", Last: fmt.Sprintf("topic %s partition %d offset %d", r.Topic, r.Partition, r.Offset)})
		}
	}
	return err
}
