package check_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/check"
)

const (
	changes = 60
	tasks   = 6
)

func drop(i int) func(*world) {
	return func(w *world) { w.log = slices.Delete(w.log, i, i+1) }
}

func swap(i, k int) func(*world) {
	return func(w *world) { w.log[i], w.log[k] = w.log[k], w.log[i] }
}

// lineOf returns the invoke of change i, or its completion.
func (w *world) lineOf(i int, phase string) *check.Op {
	for k := range w.ops {
		if w.ops[k].Nonce == w.log[i].Meta.Nonce && (w.ops[k].Phase == check.Invoke) == (phase == check.Invoke) {
			return &w.ops[k]
		}
	}
	return nil
}

// malformed adds a record that is not an event, and its dead letter of a group.
func malformed(group string) func(*world) {
	return func(w *world) {
		w.run.Group = "audit"
		w.records = append(w.records, check.Record{Topic: "task-events", Offset: int64(len(w.records)), Malformed: true, Data: "d"})
		w.commits[len(w.commits)-1].Offset++
		w.commits[len(w.commits)-1].Log++
		if group != "" {
			w.records = append(w.records, check.Record{Topic: "task-events-dlq", Malformed: true, Data: "d", Group: group})
		}
	}
}

// planted damages a correct run in one place. The report must name the rule, a
// word of the reason, and no other rule.
var planted = []struct {
	name string
	do   func(*world)
	rule string // "" = stays green
	why  string
}{
	{"untouched", func(*world) {}, "", ""},
	{"swap across tasks", swap(10, 11), "", ""},
	{"a torn history", func(w *world) {}, "", ""},
	{"a record that is not an event", func(w *world) {
		w.records = append(w.records, check.Record{Topic: "task-events", Offset: int64(len(w.records)), Malformed: true})
	}, "", ""},
	{"a record that is not an event, with a dead letter", malformed("audit"), "", ""},
	{"a task as the log has it", func(w *world) {
		w.rows = append(w.rows, check.Row{Table: check.TableTask, Task: w.log[0].Attributes.Subject, Version: changes / tasks})
	}, "", ""},
	{"a dead letter of another group", func(w *world) {
		w.records = append(w.records, check.Record{Topic: "task-events-dlq", Event: w.log[3].Event, Source: "task-api"})
	}, "", ""},

	{"first dropped", drop(0), "LOST", "acknowledged"},
	{"middle dropped", drop(changes / 2), "LOST", "acknowledged"},
	{"last dropped", drop(changes - 1), "LOST", "acknowledged"},
	{"an unread answer dropped", drop(17), "LOST", "acknowledged"},
	{"an unknown one dropped though committed", drop(13), "LOST", "committed row"},
	{"published and nowhere else", func(w *world) {
		w.records = append(w.records, check.Record{Topic: "task-events", Offset: int64(len(w.records)), Source: "task-api", Event: "e", Task: w.log[0].Attributes.Subject, Version: changes/tasks + 1, Nonce: "n"})
	}, "LOST", "published"},
	{"a task ahead of the log", func(w *world) {
		w.rows = append(w.rows, check.Row{Table: check.TableTask, Task: w.log[0].Attributes.Subject, Version: changes/tasks + 1})
	}, "LOST", "committed task"},
	{"a task that the log does not know", func(w *world) {
		w.rows = append(w.rows, check.Row{Table: check.TableTask, Task: "another", Version: 1})
	}, "LOST", "committed task"},
	{"a record that is not an event, dropped", malformed(""), "LOST", "malformed"},
	{"a record that is not an event, dead letter of another group", malformed("notifications"), "LOST", "malformed"},

	{"first repeated", func(w *world) { w.log = append(w.log, w.log[0]) }, "DUPLICATED", "event"},
	{"last repeated", func(w *world) { w.log = append(w.log, w.log[changes-1]) }, "DUPLICATED", "event"},
	{"repeated under another id", func(w *world) {
		l := w.log[20]
		l.Event = "another"
		w.log = append(w.log, l)
	}, "DUPLICATED", "nonce"},
	{"repeated with other bytes", func(w *world) {
		l := w.log[20]
		l.Data = bytes.Replace(l.Data, []byte("title"), []byte("Title"), 1)
		w.log = append(w.log, l)
	}, "ALTERED", "other content"},

	{"neighbours of a task swapped, first", swap(0, tasks), "REORDERED", "inversion"},
	{"neighbours of a task swapped, middle", swap(30, 30+tasks), "REORDERED", "inversion"},
	{"neighbours of a task swapped, last", swap(changes-1-tasks, changes-1), "REORDERED", "inversion"},
	{"a version that is nowhere", func(w *world) {
		w.log[changes-1].Attributes.Version++
		w.rows[changes-1].Version++
		w.lineOf(changes-1, check.OK).Version++
		w.records[len(w.records)-1].Version++
	}, "REORDERED", "gap"},
	{"against real time", func(w *world) {
		// Change 0 was sent after change tasks, of the same task, was answered.
		w.lineOf(0, check.Invoke).At = w.lineOf(tasks, check.OK).At + 1
		w.lineOf(0, check.OK).At = w.lineOf(tasks, check.OK).At + 2
	}, "REORDERED", "realtime"},
	{"topic in another order", func(w *world) {
		a, b := &w.records[0], &w.records[7] // versions 1 and 2 of one task
		a.Event, b.Event, a.Nonce, b.Nonce, a.Data, b.Data, a.Version, b.Version = b.Event, a.Event, b.Nonce, a.Nonce, b.Data, a.Data, b.Version, a.Version
	}, "REORDERED", "topic"},
	{"a task on two partitions", func(w *world) { w.records[20].Partition = 1 }, "REORDERED", "two partitions"},

	{"never invoked", func(w *world) {
		n := w.log[20].Meta.Nonce
		w.ops = slices.DeleteFunc(w.ops, func(o check.Op) bool { return o.Nonce == n })
	}, "PHANTOM", "never"},
	{"entry of a refused operation", func(w *world) {
		*w.lineOf(20, check.OK) = check.Op{Phase: check.Fail, Nonce: w.log[20].Meta.Nonce, Status: 412}
	}, "PHANTOM", "after-fail"},
	{"no row", func(w *world) { w.rows = slices.Delete(w.rows, 20, 21) }, "PHANTOM", "no-row"},
	{"event of no change", func(w *world) { w.lineOf(20, check.OK).Effect = check.EffectNo }, "PHANTOM", "no-change"},

	{"one bit of the data", func(w *world) {
		w.log[20].Data = bytes.Replace(w.log[20].Data, []byte("title 20"), []byte("title 21"), 1)
	}, "ALTERED", "hash"},
	{"white space in the data", func(w *world) { w.log[23].Data = append([]byte("{ "), w.log[23].Data[1:]...); w.bytes = spaced(w) }, "ALTERED", "row"},
	{"a fifth member", func(w *world) {
		w.log[20].Data = append(w.log[20].Data[:len(w.log[20].Data)-1:len(w.log[20].Data)-1], `,"x":1}`...)
	}, "ALTERED", "four members"},
	{"another version than answered", func(w *world) { w.lineOf(20, check.OK).Version = 9 }, "ALTERED", "version"},
	{"another task than answered", func(w *world) { w.lineOf(20, check.OK).Task = "other" }, "ALTERED", "task"},
	{"the topic has other bytes", func(w *world) { w.records[20].Data = "other" }, "ALTERED", "record"},
	{"a line cut out of the file", func(w *world) { w.bytes = slices.Delete(w.raw(), 20, 21) }, "ALTERED", "chain"},
	{"a line that is no entry", func(w *world) { w.bytes = w.raw(); w.bytes[20] = []byte("{}\n") }, "ALTERED", "line"},
	{"torn", func(w *world) { w.tail = `{"seq":` }, "ALTERED", "torn"},
	{"snapshot was a prefix", func(w *world) { w.snapshot(30, 1); w.snapshot(changes, 2) }, "", ""},
	{"snapshot before the first entry", func(w *world) { w.snapshot(0, 1) }, "", ""},
	{"snapshot with another bit", func(w *world) { w.snapshot(30, 1); w.snapshots[0].Sum = "00" + w.snapshots[0].Sum[2:] }, "ALTERED", "prefix"},
	{"snapshot longer than the log", func(w *world) { w.snapshot(changes, 1); w.snapshots[0].Size++ }, "ALTERED", "prefix"},

	{"snapshot taken before the acknowledgement", func(w *world) { w.snapshot(30, w.end(30)) }, "", ""},
	{"snapshot lacks what was acknowledged", func(w *world) { w.snapshot(30, w.end(30)+1) }, "EARLY-ACK", "snapshot"},
	{"empty snapshot after the first", func(w *world) { w.snapshot(0, w.end(0)+1) }, "EARLY-ACK", "snapshot"},
	{"snapshot lacks the last", func(w *world) { w.snapshot(changes-1, w.end(changes)) }, "EARLY-ACK", "snapshot"},

	{"offset without 2xx", func(w *world) { w.deliveries[20].Status, w.deliveries[20].Sink = 500, 500 }, "HOLE", "commit"},
	{"2xx that the auditor never answered", func(w *world) { w.deliveries[20].Sink = 0 }, "HOLE", "commit"},
	{"first offset without 2xx", func(w *world) { w.deliveries[0].Status = 0 }, "HOLE", "commit"},
	{"last offset without 2xx", func(w *world) { w.deliveries[len(w.deliveries)-1].Status = 503 }, "HOLE", "commit"},
	{"committed before the 2xx", func(w *world) { w.commits[20].At = w.end(20) - 10 }, "HOLE", "commit"},
	{"two of a key in flight", func(w *world) { w.deliveries[7].Start = w.deliveries[0].Start }, "HOLE", "overlap"},
	{"a repeat that the network delivers late", func(w *world) {
		late := w.deliveries[0]
		late.Attempt, late.Sink, late.Start, late.End = 2, 200, late.End, w.deliveries[7].End+1
		w.deliveries = slices.Insert(w.deliveries, 8, late)
	}, "", ""},
	{"two of a key from two starts", func(w *world) { w.deliveries[7].Start, w.deliveries[0].Via = w.deliveries[0].Start, "bridge.2" }, "", ""},

	{"notified at least once", owed(func(w *world) { w.notices = append(w.notices, w.notices[3]) }), "", ""},
	{"a notice dropped", owed(func(w *world) { w.notices = w.notices[1:] }), "LOST", "notice"},
	{"a notice refused", owed(func(w *world) { w.notices[0].Sink, w.notices[0].Status = 500, 500 }), "LOST", "notice"},
	{"a notice among the dead letters", owed(func(w *world) { w.bury("notify") }), "", ""},
	{"a notice among dead letters of which none is open", owed(func(w *world) { w.bury("notify"); w.run.Redriven = true }), "LOST", "notice"},
	{"a notice among the dead letters of another group", owed(func(w *world) { w.bury("audit") }), "LOST", "notice"},

	{"the log is not what was signed", func(w *world) { w.run.Unproved = "line 5: altered" }, "ALTERED", "tree: line 5"},
	{"drain did not end", func(w *world) { w.run.Drained, w.run.Stuck = false, "outbox 3" }, "STUCK", "outbox 3"},
	{"lag is left", func(w *world) { w.commits[len(w.commits)-1].Offset-- }, "STUCK", "lag"},
}

// owed has the notifier accept every first version, then does the damage.
func owed(do func(*world)) func(*world) {
	return func(w *world) {
		w.run.Group, w.run.Notifier, w.run.Notify = "audit", "notify", []string{"task.created"}
		for i, r := range w.records {
			if r.Version == 1 {
				w.records[i].Type = "task.created"
				w.notices = append(w.notices, check.Delivery{Offset: r.Offset, Source: r.Source, Event: r.Event, Task: r.Task, Status: 204, Sink: 204})
			}
		}
		do(w)
	}
}

// bury moves the first notice to the dead letters of a group.
func (w *world) bury(group string) {
	n := w.notices[0]
	w.notices = slices.DeleteFunc(w.notices, func(d check.Delivery) bool { return d.Event == n.Event })
	w.records = append(w.records, check.Record{Topic: "task-events-dlq", Source: n.Source, Event: n.Event, Type: "task.created", Task: n.Task, Group: group})
}

// spaced keeps the space in the data, which json.Marshal would remove.
func spaced(w *world) [][]byte {
	w.log[23].Data = bytes.TrimSpace(w.log[23].Data)
	raw := w.raw()
	raw[23] = bytes.Replace(raw[23], []byte(`"data":{`), []byte(`"data":{ `), 1)
	return raw
}

// comesWith lists other rules that the same damage breaks.
var comesWith = map[string][]string{
	"repeated with other bytes":               {"DUPLICATED"},
	"a version that is nowhere":               {"REORDERED"},
	"a line cut out of the file":              {"LOST", "EARLY-ACK"},
	"a line that is no entry":                 {"LOST", "EARLY-ACK"},
	"first dropped":                           {"EARLY-ACK"},
	"middle dropped":                          {"EARLY-ACK"},
	"last dropped":                            {"EARLY-ACK"},
	"an unread answer dropped":                {"EARLY-ACK"},
	"an unknown one dropped though committed": {"EARLY-ACK"},
	"published and nowhere else":              {"HOLE", "STUCK"},
	"a task on two partitions":                {"HOLE"},
	"repeated under another id":               {"PHANTOM"},
	"one bit of the data":                     {},
}

func TestPlantedRuns(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			w := newWorld(changes, tasks)
			p.do(w)
			rep := w.judge(t)
			if p.rule == "" {
				if rep.Verdict != check.Green {
					t.Fatalf("verdict = %s, want %s:\n%s", rep.Verdict, check.Green, text(t, rep))
				}
				return
			}
			if rep.Verdict != check.Red {
				t.Fatalf("verdict = %s, want %s", rep.Verdict, check.Red)
			}
			named := slices.ContainsFunc(rep.Findings, func(f check.Finding) bool { return f.Rule == p.rule && strings.Contains(f.Why, p.why) })
			if !named {
				t.Errorf("no finding %s with %q:\n%s", p.rule, p.why, text(t, rep))
			}
			for rule, n := range rep.Violations {
				if n > 0 && rule != p.rule && !slices.Contains(comesWith[p.name], rule) {
					t.Errorf("unexpected %s:\n%s", rule, text(t, rep))
				}
			}
		})
	}
}

func text(t *testing.T, rep *check.Report) string {
	t.Helper()
	var b strings.Builder
	if err := rep.Text(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTooLittleIsInvalid(t *testing.T) {
	for name, least := range map[string]int{"acks": changes, "info": 100, "redeliveries": 100, "dedup-hits": 100, "effective:kill": 2, "bitten:kill": 2, "4xx:bad": 2, "2xx:complete": 1, "rebalances": 1,
		"pair:client->taskapi": 1, "rate-before": 1e9, "refused-full": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(changes, tasks)
			w.run.Need[name] = least
			rep := w.judge(t)
			if rep.Verdict != check.Invalid || len(rep.TooLittle) != 1 || !strings.HasPrefix(rep.TooLittle[0], name+":") {
				t.Errorf("verdict = %s, too little of %q, want %s and one figure", rep.Verdict, rep.TooLittle, check.Invalid)
			}
		})
	}
	for name, fault := range map[string]check.Fault{
		"not injected":    {Kind: "disk", At: 1500, Healed: 1600, InFlight: 1, Recovered: 1700, Error: "no"},
		"idle":            {Kind: "disk", At: 1500, Healed: 1600, Recovered: 1700},
		"never recovered": {Kind: "disk", At: 1500, Healed: 1600, InFlight: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(changes, tasks)
			w.faults = append(w.faults, fault)
			rep := w.judge(t)
			if rep.Verdict != check.Invalid || len(rep.TooLittle) != 1 || !strings.HasPrefix(rep.TooLittle[0], "disk: planned 1") {
				t.Errorf("verdict = %s, too little of %q, want %s and one figure", rep.Verdict, rep.TooLittle, check.Invalid)
			}
		})
	}
	t.Run("red wins", func(t *testing.T) {
		w := newWorld(changes, tasks)
		w.run.Need["rebalances"] = 1
		drop(5)(w)
		if rep := w.judge(t); rep.Verdict != check.Red {
			t.Errorf("verdict = %s, want %s", rep.Verdict, check.Red)
		}
	})
}

func TestRatesAreOfTheTimeTheyAreNamedFor(t *testing.T) {
	const second = int64(1e9)
	w := newWorld(changes, tasks)
	for i := range w.ops { // one change a second, acknowledged as it is asked
		w.ops[i].At = second + int64(i/2)*second
	}
	w.faults = []check.Fault{{Kind: "kill", At: 10*second + 1, Healed: 20*second + 1, InFlight: 1, Recovered: 21 * second},
		{Kind: "cut", At: 15*second + 1, Healed: 25*second + 1, InFlight: 1, Recovered: 26 * second, Pair: "a->b"}}
	rep := w.judge(t)
	for name, got := range map[string]float64{"before": rep.Rate.Before, "during": rep.Rate.During, "after": rep.Rate.After, "kill": rep.Faults["kill"].Rate, "cut": rep.Faults["cut"].Rate} {
		if got < 0.7 || got > 1.1 { // some operations stay unknown
			t.Errorf("%s = %.2f acknowledgements per second, want about 0.9", name, got)
		}
	}
	if rep.Rate.Pause < 1e-7 || rep.Rate.Pause > 3e-7 { // a delivery each 100 ns
		t.Errorf("longest time without a delivery = %g s, want about 1e-7", rep.Rate.Pause)
	}
	if rep.Pairs["a->b"] != 1 {
		t.Errorf("pairs = %v, want a->b 1", rep.Pairs)
	}
}

func TestReportIsJSON(t *testing.T) {
	rep := newWorld(changes, tasks).judge(t)
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var again check.Report
	if err := json.Unmarshal(b, &again); err != nil || again.Verdict != check.Green || again.Audit.Entries != changes {
		t.Errorf("read back %+v, %v", again, err)
	}
}

func TestAFolderThatIsNoRun(t *testing.T) {
	dir := t.TempDir()
	if _, err := check.Dir(dir); err == nil {
		t.Error("Dir of an empty folder = nil error, want one")
	}
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := check.Dir(dir); err == nil || !strings.Contains(err.Error(), "audit.log") {
		t.Errorf("Dir without audit.log = %v, want an error that names it", err)
	}
}
