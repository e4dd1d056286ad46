package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// benchTaskAPILarge measures a Task API that has many tasks, each with an event
// that is published and kept. They are made through the API, once for all repetitions.
func benchTaskAPILarge(ctx context.Context, r *rig, t *table) error {
	tasks := r.n(r.options.tasks)
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	file, err := r.largeDatabase(ctx, b, tasks)
	if err != nil {
		return err
	}
	database := "sqlite:" + file
	all := creates(r.n(60_000))
	r.say("Task API, empty")
	empty, err := r.createRate(ctx, b, r.newDatabase(), all)
	if err != nil {
		return err
	}
	r.say("Task API with %d tasks", tasks)
	large, err := r.createRate(ctx, b, database, all)
	if err != nil {
		return err
	}
	t.against("acknowledged creates, against an empty one", perSecond, large, empty, atLeast(0.9))
	unmatched, err := r.unmatched(ctx, b, database)
	if err != nil {
		return err
	}
	t.figure("owner_id and status without a match", seconds, unmatched, atMost(0.005))
	if err := r.purge(ctx, t, b, file); err != nil {
		return err
	}
	return b.close()
}

// largeDatabase returns a copy, because a repetition ends with a purge.
func (r *rig) largeDatabase(ctx context.Context, b *broker, tasks int) (string, error) {
	key := r.programs + " tasks"
	if r.prepared[key] == "" {
		r.say("creating %d tasks", tasks)
		path := filepath.Join(r.sub("large"), "tasks.db")
		p, err := r.taskAPI(ctx, b, "sqlite:"+path)
		if err != nil {
			return "", err
		}
		if _, err := postRate(p.url+"/tasks", jsonType, owned(tasks), http.StatusCreated); err != nil {
			return "", err
		}
		if _, err := p.stop(); err != nil { // publishes what waits
			return "", err
		}
		r.prepared[key] = path
	}
	path := filepath.Join(r.sub("tasks"), "tasks.db")
	original, err := os.ReadFile(r.prepared[key])
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, original, 0o600)
}

// owned are creates of which each tenth has the same owner.
func owned(n int) [][]byte {
	all := creates(n)
	for i := 0; i < n; i += 10 {
		all[i] = fmt.Appendf(nil, `{"title": "Task number %d", "owner_id": "a0000000-0000-4000-8000-000000000001"}`, i)
	}
	return all
}

func (r *rig) createRate(ctx context.Context, b *broker, database string, all [][]byte) (float64, error) {
	p, err := r.taskAPI(ctx, b, database)
	if err != nil {
		return 0, err
	}
	return p.lastRate("/tasks", jsonType, all)
}

// lastRate is how many posts a second are answered with 201; then the process stops.
func (p *proc) lastRate(path, contentType string, all [][]byte) (float64, error) {
	rate, err := postRate(p.url+path, contentType, all, http.StatusCreated)
	if err != nil {
		return 0, err
	}
	_, err = p.stop()
	return rate, err
}

// unmatched asks for an owner with many tasks and a status that none of them has.
func (r *rig) unmatched(ctx context.Context, b *broker, database string) (float64, error) {
	p, err := r.taskAPI(ctx, b, database)
	if err != nil {
		return 0, err
	}
	var took []float64
	for range 11 {
		began := time.Now()
		if _, err := get(ctx, p.url+"/tasks?owner_id=a0000000-0000-4000-8000-000000000001&status=completed"); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	_, err = p.stop()
	return median(took), err
}

// purge starts the API with the shortest retention, and waits until it has
// deleted the events and does no more. It looks a minute after the look before, and gives
// back with the second one what has been free since the first. So this is measured once, and
// not at all in a short run.
func (r *rig) purge(ctx context.Context, t *table, b *broker, file string) error {
	key := r.programs + " purged"
	if r.prepared[key] != "" || r.options.short {
		return nil
	}
	r.prepared[key] = file
	before, _, err := fileSize(file)
	if err != nil {
		return err
	}
	r.say("waiting for the purge")
	p, err := r.taskAPI(ctx, b, "sqlite:"+file, "OUTBOX_RETENTION=1m")
	if err != nil {
		return err
	}
	if err := retry.Pause(ctx, 3*time.Minute); err != nil {
		return err
	}
	if err := p.rest(ctx, 5*time.Second); err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	after, free, err := fileSize(file)
	if err != nil {
		return err
	}
	t.against("file after the purge of the events, against before", bytes_, after, before, none)
	t.figure("of it free", percent, free, atMost(5))
	return nil
}

// rest waits until the process uses next to no CPU for a while.
func (p *proc) rest(ctx context.Context, quiet time.Duration) error {
	last, err := cpuOf(p.Pid())
	if err != nil {
		return err
	}
	for since := time.Now(); time.Since(since) < quiet; {
		if err := retry.Pause(ctx, time.Second); err != nil {
			return err
		}
		cpu, err := cpuOf(p.Pid())
		if err != nil {
			return err
		}
		if cpu-last > 0.05 {
			since = time.Now()
		}
		last = cpu
	}
	return nil
}

// fileSize reads the header of a SQLite database: its bytes, and the percentage
// of its pages that is free.
func fileSize(path string) (size, free float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	header := make([]byte, 100)
	if _, err := f.Read(header); err != nil {
		return 0, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	pages, unused := binary.BigEndian.Uint32(header[28:]), binary.BigEndian.Uint32(header[36:])
	return float64(info.Size()), 100 * float64(unused) / float64(max(1, pages)), nil
}
