package check

import (
	"fmt"
	"slices"
)

// notices checks that the notifier accepted each event that it must get, or that
// its group has an open dead letter for it.
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
		if !j.run.Redriven && r.Topic != j.run.Topic && r.Group == j.run.Notifier {
			done[eventID(r.Source, r.Event)] = true
		}
		return nil
	}); err != nil {
		return err
	}
	return each(j.dir, "topic.jsonl", func(r Record) error {
		if r.Topic == j.run.Topic && slices.Contains(j.run.Notify, r.Type) && !done[eventID(r.Source, r.Event)] {
			j.find(Finding{Rule: "LOST", Why: "notice: neither accepted by the notifier nor an open dead letter", Event: r.Event, Task: r.Task, Version: r.Version, Last: fmt.Sprintf("topic %s partition %d offset %d", r.Topic, r.Partition, r.Offset)})
		}
		return nil
	})
}
