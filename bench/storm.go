package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/retry"
)

const (
	stormEvents     = 500_000
	stormPartitions = 12
)

// benchStorm lets bridges join, stop and die every second or two while they work off half a
// million events, and fails when one is lost or comes before an earlier one of its task.
func benchStorm(ctx context.Context, r *rig, t *table) error {
	return r.onKafka(ctx, t, func(k *cluster) error {
		topic, err := k.topic(ctx, stormPartitions)
		if err != nil {
			return err
		}
		if err := k.pourOrdered(ctx, topic, stormEvents); err != nil {
			return err
		}
		s := newStormSink()
		defer s.server.Close()
		began := time.Now()
		changes, err := k.storm(ctx, topic, s)
		if err != nil {
			return err
		}
		t.figure("events in order, none lost", count, stormEvents, none)
		t.figure("delivered", perSecond, stormEvents/time.Since(began).Seconds(), none)
		t.figure("joins, stops and kills of bridges", count, float64(changes), none)
		t.figure("posted more than once", count, float64(s.posts-stormEvents), none)
		return nil
	})
}

// storm changes the bridges at random until everything has arrived.
func (k *cluster) storm(ctx context.Context, topic string, s *stormSink) (changes int, err error) {
	config := filepath.Join(k.sub("storm"), "bridge.yaml")
	text := fmt.Sprintf("topic: %s\nsubscriptions:\n  - {name: storm, group: storm, sink: %q, exhausted: block}\n", topic, s.server.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	var running []*proc
	start := func() error {
		p, err := k.start(filepath.Join(k.programs, "bridge"), nil, "KAFKA_BOOTSTRAP_SERVERS="+k.real.Brokers[0], "BRIDGE_CONFIG="+config,
			"LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "LOG_FORMAT=json", fmt.Sprint("KAFKA_GROUP_INSTANCE_ID=storm-", changes))
		running = append(running, p)
		return err
	}
	take := func() *proc {
		i := rand.IntN(len(running))
		p := running[i]
		running = append(running[:i], running[i+1:]...)
		return p
	}
	for deadline := time.Now().Add(10 * time.Minute); !s.complete(); changes++ {
		switch n := rand.IntN(6); {
		case len(running) < 2 || n < 3 && len(running) < 4:
			err = start()
		case n < 5:
			_, err = take().stop()
		default:
			err = take().kill()
		}
		if err = errors.Join(err, s.wrong(), retry.Pause(ctx, time.Second+rand.N(time.Second))); err != nil {
			return changes, err
		}
		if time.Now().After(deadline) {
			return changes, fmt.Errorf("%d of %d events arrived within 10 minutes", s.arrived(), stormEvents)
		}
	}
	for _, p := range running {
		if _, err := p.stop(); err != nil {
			return changes, err
		}
	}
	return changes, s.wrong()
}

// pourOrdered produces n events, ten of each task, in order per task.
func (k *cluster) pourOrdered(ctx context.Context, topic string, n int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.real.Brokers...), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return err
	}
	defer cl.Close()
	const chunk = 50_000
	for range n / chunk {
		tasks, all := bodies(chunk, chunk/10)
		records := make([]*kgo.Record, chunk)
		for i := range all {
			records[i] = record(tasks[i], all[i])
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// stormSink accepts everything and checks the order of each task.
type stormSink struct {
	server *httptest.Server

	mu       sync.Mutex
	last     map[string]int // version by task
	distinct int
	posts    int
	err      error // the first event out of order
}

func newStormSink() *stormSink {
	s := &stormSink{last: map[string]int{}}
	s.server = httptest.NewServer(s)
	return s
}

func (s *stormSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e struct {
		Subject     string `json:"subject"`
		TaskVersion int    `json:"taskversion"`
	}
	err := json.NewDecoder(r.Body).Decode(&e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts++
	switch last := s.last[e.Subject]; {
	case err != nil:
		s.err = errors.Join(s.err, err)
	case e.TaskVersion == last+1:
		s.last[e.Subject]++
		s.distinct++
	case e.TaskVersion > last && s.err == nil:
		s.err = fmt.Errorf("task %s: version %d came after %d", e.Subject, e.TaskVersion, last)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *stormSink) arrived() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.distinct
}

func (s *stormSink) complete() bool { return s.arrived() == stormEvents }

func (s *stormSink) wrong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
