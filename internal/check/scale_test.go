package check_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

// The size of the runs of TestOneOfMany. A large one needs 1.6 KiB of disk for each
// change: go test ./internal/check -run OneOfMany/untouched -changes 10000000 -timeout 1h -v
var many = flag.Int("changes", 5_000, "changes of the runs of TestOneOfMany")

const perTask = 50 // versions of each task

// large writes a correct run of n changes line by line, so that only the judge
// needs memory; damage may replace the log line of a change with others or none.
func large(t *testing.T, n int, damage func(i int, line string) string) string {
	t.Helper()
	dir := t.TempDir()
	names := []string{"history-0.jsonl", "database.jsonl", "topic.jsonl", "deliveries.jsonl", "commits.jsonl", "audit.log"}
	files := make([]*bufio.Writer, len(names))
	for i, name := range names {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = bufio.NewWriterSize(f, 1<<20)
		defer func() {
			if err := files[i].Flush(); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	history, database, topic, deliveries, commits, log := files[0], files[1], files[2], files[3], files[4], files[5]
	seq := 1
	for i := range n {
		task, version := i/perTask, i%perTask+1
		nonce, event, name := number(1, i), number(2, i), number(3, task)
		data := fmt.Sprintf(`{"task_id":"%s","title":"%d","status":"pending","owner_id":null}`, name, i)
		state, sum, at := check.State(fmt.Sprint(i), "pending", ""), check.Sum([]byte(data)), int64(i)*1000
		fmt.Fprintf(history, `{"phase":"invoke","nonce":"%s","at":%d,"kind":"x"}`+"\n", nonce, at+1)
		fmt.Fprintf(history, `{"phase":"ok","nonce":"%s","at":%d,"task":"%s","version":%d,"effect":"yes","state":"%s"}`+"\n", nonce, at+2, name, version, state)
		fmt.Fprintf(database, `{"table":"outbox","task":"%s","version":%d,"source":"task-api","event":"%s","nonce":"%s","data":"%s"}`+"\n", name, version, event, nonce, sum)
		fmt.Fprintf(topic, `{"topic":"t","partition":0,"offset":%d,"source":"task-api","event":"%s","task":"%s","version":%d,"nonce":"%s","data":"%s"}`+"\n", i, event, name, version, nonce, sum)
		fmt.Fprintf(deliveries, `{"via":"b.1","partition":0,"offset":%d,"source":"task-api","event":"%s","task":"%s","attempt":1,"status":201,"sink":201,"start":%d,"end":%d}`+"\n", i, event, name, at+3, at+4)
		if i%100 == 99 {
			fmt.Fprintf(commits, `{"partition":0,"offset":%d,"at":%d}`+"\n", i+1, at+5)
		}
		for line := range strings.Lines(damage(i, fmt.Sprintf(`{"seq":SEQ,"event_id":"%s","event_type":"task.updated","occurred_at":"2026-01-01T00:00:00Z","data":%s,"metadata":{"correlation_id":"%s","source":"task-api"},"attributes":{"subject":"%s","taskversion":%d},"audited_at":"2026-01-01T00:00:00.000000Z"}`+"\n", event, data, nonce, name, version))) {
			_, _ = log.WriteString(strings.Replace(line, "SEQ", fmt.Sprint(seq), 1)) // Flush returns the error
			seq++
		}
	}
	run := fmt.Sprintf(`{"topic":"t","drained":true,"need":{"acks":%d}}`, n)
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func number(kind, i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, i) }

// A single damage must be found, and nothing else, even among very many changes.
func TestOneOfMany(t *testing.T) {
	victim := *many*73/100/perTask*perTask + perTask/2 // in the middle of a task
	kept := ""
	for name, c := range map[string]struct {
		damage func(i int, line string) string
		want   string // violations
	}{
		"untouched": {func(_ int, line string) string { return line }, ""},
		"dropped":   {at(victim, func(string) string { return "" }), "LOST 1, EARLY-ACK 1"},
		"repeated":  {at(victim, func(line string) string { return line + line }), "DUPLICATED 1"},
		"one bit":   {at(victim, func(line string) string { return strings.Replace(line, `"pending"`, `"qending"`, 1) }), "ALTERED 3"},
		"swapped": {func(i int, line string) string {
			switch i {
			case victim:
				kept = line
				return ""
			case victim + 1:
				return line + kept
			}
			return line
		}, "REORDERED 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := large(t, *many, c.damage)
			began := time.Now()
			rep, err := check.Dir(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d changes judged in %s; peak of this process so far: %s", *many, time.Since(began).Round(time.Millisecond), peak())
			if rep.Broken() != c.want || (c.want == "") != (rep.Verdict == check.Green) {
				t.Fatalf("violations = %q, want %q:\n%s", rep.Broken(), c.want, text(t, rep))
			}
			hit := number(2, victim)
			if c.want != "" && !slices.ContainsFunc(rep.Findings, func(f check.Finding) bool { return f.Event == hit && f.Task == number(3, victim/perTask) }) {
				t.Errorf("no finding has event %s:\n%s", hit, text(t, rep))
			}
		})
	}
}

func at(victim int, do func(string) string) func(int, string) string {
	return func(i int, line string) string {
		if i == victim {
			return do(line)
		}
		return line
	}
}

// peak returns the peak memory of this process, where the system reports it.
func peak() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
