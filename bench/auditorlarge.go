package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// versions is how many entries each task has in a generated log.
const versions = 10

// benchAuditorLarge measures an auditor whose log is long. The log is written
// here, as the auditor would have written it; the auditor derives everything
// else at its first start.
func benchAuditorLarge(ctx context.Context, r *rig, t *table) error {
	entries := r.n(r.options.entries)
	path, firstStart, err := r.largeLog(ctx, entries)
	if err != nil {
		return err
	}
	if firstStart > 0 {
		t.figure("first start, without an index", seconds, firstStart.Seconds(), none)
	}
	r.say("auditor with %d entries", entries)
	began := time.Now()
	large, err := r.startLarge(ctx, path)
	if err != nil {
		return err
	}
	t.figure("ready after a start", seconds, time.Since(began).Seconds(), atMost(2))
	history, err := histories(ctx, large, entries)
	if err != nil {
		return err
	}
	n := r.n(60_000)
	_, all := bodies(n, min(n, 1000))
	rate, err := postRate(large.url+"/", structuredType, all, http.StatusCreated)
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
	emptyRate, err := postRate(empty.url+"/", structuredType, all, http.StatusCreated)
	if err != nil {
		return err
	}
	t.figure("memory after appends (RSS)", bytes_, rss, atMost(64<<20))
	t.figure("of it not backed by files", bytes_, anonymous, none)
	t.against("acknowledged appends, against an empty auditor", perSecond, rate, emptyRate, atLeast(0.9))
	t.figure(fmt.Sprintf("history of one task (%d entries)", versions), seconds, history, atMost(0.005))
	_, err = empty.stop()
	return err
}

// startLarge waits as long as it takes.
func (r *rig) startLarge(ctx context.Context, path string) (*proc, error) {
	p, err := r.launch("auditor", "AUDIT_LOG_PATH="+path, "LOG_LEVEL=warn")
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, 10*time.Minute)
}

// largeLog is written once for all repetitions, and opened once so that later
// starts find what the auditor derives from it.
func (r *rig) largeLog(ctx context.Context, entries int) (path string, firstStart time.Duration, err error) {
	key := fmt.Sprint(r.programs, " log ", entries)
	if path = r.prepared[key]; path != "" {
		return path, 0, nil
	}
	r.say("writing a log of %d entries", entries)
	path = filepath.Join(r.sub("large"), "audit.log")
	if err := r.writeLog(ctx, path, entries); err != nil {
		return "", 0, err
	}
	r.say("first start")
	began := time.Now()
	p, err := r.startLarge(ctx, path)
	if err != nil {
		return "", 0, err
	}
	firstStart = time.Since(began)
	if _, err := p.stop(); err != nil {
		return "", 0, err
	}
	r.prepared[key] = path
	return path, firstStart, nil
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
