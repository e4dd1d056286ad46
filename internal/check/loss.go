package check

import "fmt"

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

// locate finds the last place of each loss in topic and deliveries. It reads them
// again because a good run never needs this.
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
		note(d.Source, d.Event, fmt.Sprintf("post of partition %d offset %d, attempt %d: auditor answered %d, bridge got %d", d.Partition, d.Offset, d.Attempt, d.Sink, d.Status))
		return nil
	})
}
