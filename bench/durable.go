package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/retry"
)

// benchAudit measures appends of 64 clients, each on disk before its answer.
func benchAudit(ctx context.Context, r *rig) error {
	const n = 60_000
	_, all := bodies(n, 1000)
	bare, err := r.appendServer(ctx)
	if err != nil {
		return err
	}
	bareSeconds, err := timed(func() error { return postAll(client(64), 64, bare.url+"/", structuredType, all, http.StatusCreated) })
	if err != nil {
		return err
	}
	if err := bare.kill(); err != nil {
		return err
	}
	p, err := r.service(ctx, "auditor", "AUDIT_LOG_PATH="+filepath.Join(r.sub("audit"), "audit.log"), "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	seconds, err := timed(func() error { return postAll(client(64), 64, p.url+"/", structuredType, all, http.StatusCreated) })
	if err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	report("acknowledged appends, against bare append + fsync", rate(n, seconds), bareSeconds/seconds, ">= 0.7")
	note("  the bare server", rate(n, bareSeconds))
	return nil
}

// benchCreate measures creates of 64 clients: change and event are on disk before the answer.
func benchCreate(ctx context.Context, r *rig) error {
	const n = 60_000
	all := make([][]byte, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, `{"title": "Task number %d"}`, i)
	}
	bare, err := r.appendServer(ctx)
	if err != nil {
		return err
	}
	bareSeconds, err := timed(func() error {
		return postAll(client(64), 64, bare.url+"/", "application/json", all, http.StatusCreated)
	})
	if err != nil {
		return err
	}
	if err := bare.kill(); err != nil {
		return err
	}
	b, err := r.broker()
	if err != nil {
		return err
	}
	defer b.Close()
	p, err := r.service(ctx, "taskapi", "KAFKA_BOOTSTRAP_SERVERS="+b.Addr(), "DATABASE_URL=sqlite:"+filepath.Join(r.sub("tasks"), "tasks.db"), "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	seconds, err := timed(func() error {
		return postAll(client(64), 64, p.url+"/tasks", "application/json", all, http.StatusCreated)
	})
	if err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	report("acknowledged creates, against bare append + fsync", rate(n, seconds), bareSeconds/seconds, "> 16,000/s")
	return nil
}

func (r *rig) appendServer(ctx context.Context) (*proc, error) {
	addr := freeport.Addr()
	p, err := r.yardstick("append", addr, filepath.Join(r.sub("bare"), "log"))
	if err != nil {
		return nil, err
	}
	p.url = "http://" + addr
	return p, p.ready(ctx)
}

func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

// benchEndToEnd measures the time from a 201 to the entry in audit.log at 200
// changes a second. One Kafka round trip and two fsyncs, measured in the same
// seconds, are the yardstick.
func benchEndToEnd(ctx context.Context, r *rig) error {
	const n = 2000
	b, err := r.broker()
	if err != nil {
		return err
	}
	defer b.Close()
	auditLog := filepath.Join(r.sub("audit"), "audit.log")
	auditor, err := r.service(ctx, "auditor", "AUDIT_LOG_PATH="+auditLog)
	if err != nil {
		return err
	}
	defer func() { _ = auditor.kill() }()
	bridge, err := r.bridge(ctx, b.Addr(), auditor.url+"/", 64)
	if err != nil {
		return err
	}
	defer func() { _ = bridge.kill() }()
	api, err := r.service(ctx, "taskapi", "KAFKA_BOOTSTRAP_SERVERS="+b.Addr(), "DATABASE_URL=sqlite:"+filepath.Join(r.sub("tasks"), "tasks.db"))
	if err != nil {
		return err
	}
	defer func() { _ = api.kill() }() // what they did is measured by then

	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var onDisk map[string]time.Time
	var followErr, bareErr error
	var bare []time.Duration
	done := make(chan struct{})
	wg.Go(func() { onDisk, followErr = follow(ctx, auditLog, n) })
	wg.Go(func() { bare, bareErr = roundTrips(ctx, b.Addr(), r.sub("fsync"), done) })
	answered, err := createAt200(api.url, n)
	close(done)
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err != nil || followErr != nil || bareErr != nil {
		return fmt.Errorf("create: %w, follow: %w, yardstick: %w", err, followErr, bareErr)
	}
	var took []time.Duration
	for id, at := range answered {
		took = append(took, max(0, onDisk[id].Sub(at)))
	}
	p50, p99 := percentiles(took)
	bare50, bare99 := percentiles(bare)
	report("201 received to entry on disk at 200/s, p50", p50.Round(time.Microsecond).String(), float64(p50)/float64(bare50), "-")
	report("  p99", p99.Round(time.Microsecond).String(), float64(p99)/float64(bare99), "<= 3")
	note("  one Kafka round trip + two fsyncs, p50 / p99", fmt.Sprint(bare50.Round(time.Microsecond), " / ", bare99.Round(time.Microsecond)))
	return nil
}

func createAt200(url string, n int) (map[string]time.Time, error) {
	c := client(8)
	answered := make(map[string]time.Time, n)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		id := uuid.NewString()
		req, err := http.NewRequest(http.MethodPost, url+"/tasks", bytes.NewReader([]byte(`{"title":"End to end"}`)))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Correlation-ID", id)
		resp, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			return nil, fmt.Errorf("create: status %d", resp.StatusCode)
		}
		answered[id] = time.Now()
	}
	return answered, nil
}

// follow reads the audit log as it grows and records when each correlation id was first seen.
func follow(ctx context.Context, path string, n int) (map[string]time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen := make(map[string]time.Time, n)
	var partial []byte
	br := bufio.NewReader(f)
	for len(seen) < n {
		chunk, err := br.ReadBytes('\n')
		partial = append(partial, chunk...)
		if err != nil {
			if err := retry.Pause(ctx, 200*time.Microsecond); err != nil {
				return nil, fmt.Errorf("%d of %d entries: %w", len(seen), n, err)
			}
			continue
		}
		var entry struct {
			Metadata struct {
				CorrelationID string `json:"correlation_id"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(partial, &entry); err != nil {
			return nil, err
		}
		seen[entry.Metadata.CorrelationID] = time.Now()
		partial = partial[:0]
	}
	return seen, nil
}

// roundTrips measures the least that such a system must do: sync the change,
// produce it with an acknowledgement, sync the entry.
func roundTrips(ctx context.Context, broker, dir string, done <-chan struct{}) ([]time.Duration, error) {
	cl, err := producer(broker)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, all := bodies(1, 1)
	var took []time.Duration
	for {
		select {
		case <-done:
			return took, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		start := time.Now()
		for range 2 {
			if _, err := f.Write(all[0]); err != nil {
				return nil, err
			}
			if err := f.Sync(); err != nil {
				return nil, err
			}
		}
		rec := record("yardstick", nil) // a topic of its own, so that the bridge does not deliver it
		rec.Topic, rec.Value = "task-events-dlq", all[0]
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
}
