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

	"github.com/taskwire/taskwire/internal/retry"
)

// benchEndToEnd measures the time from a 201 to the entry in audit.log at 200
// changes a second. One Kafka round trip and two fsyncs, measured in the same
// seconds, are the yardstick.
func benchEndToEnd(ctx context.Context, r *rig, t *table) error {
	n := r.n(2000)
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	auditLog := filepath.Join(r.sub("audit"), "audit.log")
	auditor, err := r.service(ctx, "auditor", "AUDIT_LOG_PATH="+auditLog)
	if err != nil {
		return err
	}
	defer func() { _ = auditor.kill() }()
	bridge, err := r.bridge(ctx, b, auditor.url+"/")
	if err != nil {
		return err
	}
	defer func() { _ = bridge.kill() }()
	api, err := r.taskAPI(ctx, b, r.newDatabase())
	if err != nil {
		return err
	}
	defer func() { _ = api.kill() }() // what they did is measured by then
	if err := b.create(ctx, b.topic+"-yardstick", 1); err != nil {
		return err
	}
	r.say("200 changes a second")
	took, bare, err := roundAndRound(ctx, b, r.sub("fsync"), api.url, auditLog, n)
	if err != nil {
		return err
	}
	p50, p99 := percentiles(took)
	bare50, bare99 := percentiles(bare)
	t.against("201 received to entry on disk, p50", seconds, p50, bare50, none)
	t.against("201 received to entry on disk, p99", seconds, p99, bare99, atMost(3))
	return b.close()
}

// roundAndRound creates n tasks, follows the audit log and takes the yardstick, all at once.
func roundAndRound(ctx context.Context, b *broker, dir, url, auditLog string, n int) (took, bare []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var onDisk map[string]time.Time
	var followErr, bareErr error
	done := make(chan struct{})
	wg.Go(func() { onDisk, followErr = follow(ctx, auditLog, n) })
	wg.Go(func() { bare, bareErr = roundTrips(ctx, b, dir, done) })
	answered, err := createAt200(url, n)
	close(done)
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err != nil || followErr != nil || bareErr != nil {
		return nil, nil, fmt.Errorf("create: %w, follow: %w, yardstick: %w", err, followErr, bareErr)
	}
	for id, at := range answered {
		took = append(took, max(0, onDisk[id].Sub(at)))
	}
	return took, bare, nil
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
func roundTrips(ctx context.Context, b *broker, dir string, done <-chan struct{}) ([]time.Duration, error) {
	cl, err := b.producer()
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
		rec.Topic, rec.Value = b.topic+"-yardstick", all[0]
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
}
