package check

import "fmt"

// database compares the committed rows with the log, in both directions.
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

// taskRow finds changes without an event, which no other rule finds. The tasks of
// a dump follow its events, so that a lost one is not reported twice.
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
