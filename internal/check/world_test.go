package check_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/check"
)

// world is a correct run in memory, which a test damages in one place and writes out.
type world struct {
	run        check.Run
	ops        []check.Op
	rows       []check.Row
	records    []check.Record
	deliveries []check.Delivery
	notices    []check.Delivery
	commits    []check.Commit
	snapshots  []check.Snapshot
	faults     []check.Fault
	log        []line
	bytes      [][]byte // raw lines; nil = made from log with new seqs
	tail       string   // after the last line
}

type line struct {
	Seq        int             `json:"seq"`
	Event      string          `json:"event_id"`
	Type       string          `json:"event_type"`
	Occurred   string          `json:"occurred_at"`
	Data       json.RawMessage `json:"data"`
	Meta       meta            `json:"metadata"`
	Attributes attributes      `json:"attributes"`
	Audited    string          `json:"audited_at"`
}

type meta struct {
	Nonce  string `json:"correlation_id"`
	Source string `json:"source"`
}

type attributes struct {
	Partition string `json:"partitionkey"`
	Subject   string `json:"subject"`
	Version   int64  `json:"taskversion"`
}

func uuid(r *rand.Rand) string {
	h := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// newWorld makes a run of n changes of the tasks in turn. It includes a refused and
// an unknown operation, a repeated record and a redelivery.
func newWorld(n, tasks int) *world {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	w := &world{run: check.Run{Seed: 1, Topic: "task-events", Drained: true, Need: map[string]int{
		"acks": n / 2, "info": 1, "redeliveries": 1, "dedup-hits": 1, "effective:kill": 1, "4xx:bad": 1}}}
	names := make([]string, tasks)
	for i := range names {
		names[i] = uuid(r)
	}
	now := int64(1000)
	for i := range n {
		w.change(r, names[i%tasks], int64(i/tasks+1), now, i)
		now += 100
	}
	bad := uuid(r)
	w.ops = append(w.ops, check.Op{Phase: check.Invoke, Nonce: bad, At: now, Kind: "bad"}, check.Op{Phase: check.Fail, Nonce: bad, At: now + 1, Status: 422})
	unknown := uuid(r)
	w.ops = append(w.ops, check.Op{Phase: check.Invoke, Nonce: unknown, At: now, Kind: "create"})
	w.commits = append(w.commits, check.Commit{Offset: int64(len(w.records)), At: now, Final: true, Log: int64(len(w.records))})
	w.faults = []check.Fault{{Kind: "kill", Target: "bridge", At: 1500, Healed: 1600, InFlight: 1, Recovered: 1700}}
	return w
}

func (w *world) change(r *rand.Rand, task string, version, now int64, i int) {
	nonce, id := uuid(r), uuid(r)
	title := fmt.Sprintf("title %d", i)
	data := fmt.Sprintf(`{"task_id":%q,"title":%q,"status":"pending","owner_id":null}`, task, title)
	kind := "update"
	if version == 1 {
		kind = "create"
	}
	state := check.State(title, "pending", "")
	w.ops = append(w.ops, check.Op{Phase: check.Invoke, Nonce: nonce, At: now, Kind: kind, State: state})
	done := check.Op{Phase: check.OK, Nonce: nonce, At: now + 40, Kind: kind, Task: task, Version: version, Effect: check.EffectYes, State: state, Status: 200}
	switch i % 10 {
	case 7:
		done.Phase, done.Version, done.State = check.OKUnread, 0, ""
	case 3:
		done = check.Op{Phase: check.Info, Nonce: nonce, At: now + 40}
	}
	w.ops = append(w.ops, done)
	w.rows = append(w.rows, check.Row{Table: check.TableEvent, Task: task, Version: version, Source: "task-api", Event: id, Nonce: nonce, Data: check.Sum([]byte(data))})
	w.log = append(w.log, line{Event: id, Type: "task." + kind + "d", Occurred: "2026-01-01T00:00:00Z", Data: json.RawMessage(data),
		Meta: meta{nonce, "task-api"}, Attributes: attributes{task, task, version}, Audited: "2026-01-01T00:00:00.000000Z"})
	w.publish(task, version, id, nonce, check.Sum([]byte(data)), now)
	if i%10 == 5 { // the relay died before it marked the event as sent; the sink has it already
		w.publish(task, version, id, nonce, check.Sum([]byte(data)), now+20)
		w.deliveries[len(w.deliveries)-1].Sink, w.deliveries[len(w.deliveries)-1].Attempt = 200, 2
	}
	w.commits = append(w.commits, check.Commit{Offset: int64(len(w.records)), At: now + 80})
}

func (w *world) publish(task string, version int64, id, nonce, sum string, now int64) {
	offset := int64(len(w.records))
	w.records = append(w.records, check.Record{Topic: "task-events", Offset: offset, Source: "task-api", Event: id, Task: task, Version: version, Nonce: nonce, Data: sum})
	w.deliveries = append(w.deliveries, check.Delivery{Via: "bridge.1", Offset: offset, Source: "task-api", Event: id, Task: task, Attempt: 1, Status: 201, Sink: 201, Start: now + 50, End: now + 60})
}

func (w *world) raw() [][]byte {
	if w.bytes != nil {
		return w.bytes
	}
	out := make([][]byte, len(w.log))
	for i, l := range w.log {
		l.Seq = i + 1
		b, err := json.Marshal(l)
		if err != nil {
			panic(err)
		}
		out[i] = append(b, '\n')
	}
	return out
}

// snapshot adds a snapshot of the first n lines at a time.
func (w *world) snapshot(n int, at int64) {
	image := []byte{}
	for _, l := range w.raw()[:n] {
		image = append(image, l...)
	}
	sum := sha256.Sum256(image)
	w.snapshots = append(w.snapshots, check.Snapshot{At: at, Size: int64(len(image)), Sum: hex.EncodeToString(sum[:])})
}

// end returns the time at which the auditor acknowledged change i.
func (w *world) end(i int) int64 { return 1000 + int64(i)*100 + 60 }

func save[T any](t testing.TB, dir, name string, values []T) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	b := bufio.NewWriter(f)
	enc := json.NewEncoder(b)
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) judge(t testing.TB) *check.Report {
	t.Helper()
	dir := t.TempDir()
	run, err := json.Marshal(w.run)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for _, l := range w.raw() {
		log.Write(l)
	}
	for name, content := range map[string]string{"run.json": string(run), "audit.log": log.String() + w.tail} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	half := len(w.ops) / 4 * 2
	save(t, dir, "history-0.jsonl", w.ops[:half])
	save(t, dir, "history-1.jsonl", w.ops[half:])
	save(t, dir, "database.jsonl", w.rows)
	save(t, dir, "topic.jsonl", w.records)
	save(t, dir, "deliveries.jsonl", w.deliveries)
	save(t, dir, "notices.jsonl", w.notices)
	save(t, dir, "commits.jsonl", w.commits)
	save(t, dir, "snapshots.jsonl", w.snapshots)
	save(t, dir, "faults.jsonl", w.faults)
	rep, err := check.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}
