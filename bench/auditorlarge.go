package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/internal/retry"
)

// versions is how many entries each task has in a generated log.
const versions = 10

// benchAuditorLarge measures an auditor whose log is long. The log is written
// here, as the auditor would have written it; the auditor derives everything
// else at its first start.
func benchAuditorLarge(ctx context.Context, r *rig, t *table) error {
	entries := r.n(r.options.entries)
	path, first, err := r.largeLog(ctx, entries)
	if err != nil {
		return err
	}
	if first.ready > 0 {
		t.figure("first start, without an index", seconds, first.ready.Seconds(), none)
		t.figure("the same, until all of it is signed", seconds, first.signed.Seconds(), none)
	}
	r.say("auditor with %d entries", entries)
	began := time.Now()
	large, err := r.startLarge(ctx, path)
	if err != nil {
		return err
	}
	t.figure("ready after a start", seconds, time.Since(began).Seconds(), atMost(2))
	post := func(p *proc) (float64, error) {
		n := r.n(60_000)
		_, all := bodies(n, min(n, 1000))
		return postRate(p.url+"/", structuredType, all, http.StatusCreated)
	}
	checking, err := post(large)
	if err != nil {
		return err
	}
	if err := large.rest(ctx, 3*time.Second); err != nil {
		return err
	}
	checked := time.Since(began)
	history, err := histories(ctx, large, entries)
	if err != nil {
		return err
	}
	proofs, err := answered(ctx, large.url+"/proof/", entries)
	if err != nil {
		return err
	}
	rate, err := post(large)
	if err != nil {
		return err
	}
	rss, err1 := large.memory("VmRSS")
	anonymous, err2 := large.memory("RssAnon")
	if err1 != nil || err2 != nil {
		return fmt.Errorf("memory: %w, %w", err1, err2)
	}
	if _, err := large.stop(); err != nil {
		return err
	}
	empty, err := r.auditor(ctx, filepath.Join(r.sub("audit"), "audit.log"))
	if err != nil {
		return err
	}
	emptyRate, err := post(empty)
	if err != nil {
		return err
	}
	p50, p99 := percentiles(proofs)
	t.figure("start to the end of its check", seconds, checked.Seconds(), none)
	t.figure("memory after appends (RSS)", bytes_, rss, atMost(64<<20))
	t.figure("of it not backed by files", bytes_, anonymous, none)
	t.against("acknowledged appends, against an empty auditor", perSecond, rate, emptyRate, atLeast(0.9))
	t.against("the same, while the log is checked after a start", perSecond, checking, emptyRate, none)
	t.figure(fmt.Sprintf("history of one task (%d entries)", versions), seconds, history, atMost(0.005))
	t.figure("proof of an entry, p50", seconds, p50, none)
	t.figure("the same, p99", seconds, p99, none)
	if _, err := empty.stop(); err != nil {
		return err
	}
	return r.verifyLarge(ctx, path, entries, t)
}

// verifyLarge measures the commands that read the files by themselves.
func (r *rig) verifyLarge(ctx context.Context, path string, entries int, t *table) error {
	r.say("auditor verify and auditor prove")
	for _, c := range []struct {
		name string
		args []string
	}{{"auditor verify, all of it", []string{"verify", path}}, {"auditor prove, one entry", []string{"prove", strconv.Itoa(1 + entries/2), path}}} {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, filepath.Join(r.programs, "auditor"), c.args...).CombinedOutput(); err != nil {
			return fmt.Errorf("auditor %s: %w\n%s", c.args[0], err, out)
		}
		t.figure(c.name, seconds, time.Since(began).Seconds(), none)
	}
	return nil
}

// startLarge waits as long as it takes.
func (r *rig) startLarge(ctx context.Context, path string) (*proc, error) {
	p, err := r.launch("auditor", "AUDIT_LOG_PATH="+path, "LOG_LEVEL=warn")
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, 10*time.Minute)
}

// firstStart is how long the first start took, 0 when it was another repetition's.
type firstStart struct{ ready, signed time.Duration }

// largeLog is written once for all repetitions, and opened once so that later
// starts find what the auditor derives from it.
func (r *rig) largeLog(ctx context.Context, entries int) (path string, first firstStart, err error) {
	key := fmt.Sprint(r.programs, " log ", entries)
	if path = r.prepared[key]; path != "" {
		return path, first, nil
	}
	r.say("writing a log of %d entries", entries)
	path = filepath.Join(r.sub("large"), "audit.log")
	if err := r.writeLog(ctx, path, entries); err != nil {
		return "", first, err
	}
	r.say("first start")
	began := time.Now()
	p, err := r.startLarge(ctx, path)
	if err != nil {
		return "", first, err
	}
	first.ready = time.Since(began)
	if err := p.signed(ctx, entries); err != nil {
		return "", first, err
	}
	first.signed = time.Since(began)
	if _, err := p.stop(); err != nil {
		return "", first, err
	}
	r.prepared[key] = path
	return path, first, nil
}

// signed waits for a checkpoint that covers so many entries.
func (p *proc) signed(ctx context.Context, entries int) error {
	for {
		n, err := p.metric(ctx, "taskwire_audit_checkpoint_entries")
		if err != nil || n >= float64(entries) {
			return err
		}
		if err := retry.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// writeLog also writes the mark of what was acknowledged, without which a log is
// as good, but not the usual case.
func (r *rig) writeLog(ctx context.Context, path string, entries int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	size, stamp := 0, time.Now().UTC().Add(-24*time.Hour)
	var line []byte
	for i := range entries {
		if i%1_000_000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		stamp = stamp.Add(100 * time.Microsecond)
		line = appendEntry(line[:0], i, entries, stamp)
		size += len(line)
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.WriteFile(path+".acked", fmt.Appendf(nil, "%020d\n", size), 0o600)
}

// taskOf spreads the versions of a task evenly over the log.
func taskOf(i, entries int) string {
	var id uuid.UUID
	copy(id[:], fmt.Sprintf("task%012d", i%max(1, entries/versions)))
	return id.String()
}

func appendEntry(b []byte, i, entries int, stamp time.Time) []byte {
	const layout = "2006-01-02T15:04:05.000000Z"
	task, version := taskOf(i, entries), i/max(1, entries/versions)+1
	r := rand.Uint64()
	b = strconv.AppendInt(append(b, `{"seq":`...), int64(i+1), 10)
	b = fmt.Appendf(b, `,"event_id":"%016x-%x","event_type":"task.updated","occurred_at":"`, r, i)
	b = stamp.AppendFormat(b, layout)
	b = append(append(b, `","data":{"task_id":"`...), task...)
	b = append(b, `","title":"A title of usual length for a task","status":"pending","owner_id":null},"metadata":{"correlation_id":"`...)
	b = fmt.Appendf(b, `%016x%016x","source":"task-api"},"attributes":{"datacontenttype":"application/json","partitionkey":"`, r, i)
	b = append(append(append(append(b, task...), `","subject":"`...), task...), `","taskversion":`...)
	b = append(strconv.AppendInt(b, int64(version), 10), `},"audited_at":"`...)
	return append(stamp.AppendFormat(b, layout), "\"}\n"...)
}

// histories is the median of 20 tasks, in seconds.
func histories(ctx context.Context, p *proc, entries int) (float64, error) {
	var took []float64
	for range 20 {
		task := taskOf(rand.IntN(entries), entries)
		began := time.Now()
		body, err := get(ctx, p.url+"/tasks/"+task+"/history")
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
		var answer struct {
			Versions []json.RawMessage `json:"versions"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return 0, err
		}
		if len(answer.Versions) != versions {
			return 0, fmt.Errorf("the history of %s has %d versions, want %d", task, len(answer.Versions), versions)
		}
	}
	return median(took), nil
}
