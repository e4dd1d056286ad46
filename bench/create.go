package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// benchCreate measures creates of 64 clients: change and event are on disk before
// the answer, and the relay publishes meanwhile. The yardsticks keep less: one
// appends the request and syncs, the other only produces it to Kafka.
func benchCreate(ctx context.Context, r *rig, t *table) error {
	all := creates(r.n(60_000))
	bare, err := r.bareAppends(ctx, jsonType, all)
	if err != nil {
		return err
	}
	produced, err := r.bareProduces(ctx, all)
	if err != nil {
		return err
	}
	b, err := r.broker(ctx, 1)
	if err != nil {
		return err
	}
	api, err := r.taskAPI(ctx, b, r.newDatabase())
	if err != nil {
		return err
	}
	r.say("Task API")
	profiled := r.profile(ctx, map[string]*proc{"taskapi-create": api}, 6*time.Second)
	got, err := api.answer("/tasks", jsonType, all, http.StatusCreated)
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	t.against("acknowledged creates, against bare append + fsync", perSecond, got.rate, bare.rate, atLeast(0.7))
	t.against("the same, against an API that only produces", perSecond, got.rate, produced.rate, atLeast(1))
	if bare.cpu > 0 {
		t.against("CPU of the server a create, against bare append + fsync", seconds, got.cpu, bare.cpu, none)
		t.against("CPU of the server a create, against an API that only produces", seconds, got.cpu, produced.cpu, none)
	}
	if err := api.kill(); err != nil { // what is not published yet is not measured
		return err
	}
	return b.close()
}

const jsonType = "application/json"

func creates(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, `{"title": "Task number %d"}`, i)
	}
	return all
}

// newDatabase is the DATABASE_URL of a file that is not there yet.
func (r *rig) newDatabase() string {
	return "sqlite:" + filepath.Join(r.sub("tasks"), "tasks.db")
}

func (r *rig) taskAPI(ctx context.Context, b *broker, database string, more ...string) (*proc, error) {
	return r.service(ctx, "taskapi", append(append(b.settings(), "DATABASE_URL="+database, "LOG_LEVEL=warn"), more...)...)
}

// bareProduces is the yardstick that keeps nothing itself.
func (r *rig) bareProduces(ctx context.Context, all [][]byte) (answers, error) {
	r.say("API that only produces")
	b, err := r.broker(ctx, 1)
	if err != nil {
		return answers{}, err
	}
	p, err := r.server(ctx, "produce", b.addr, b.topic)
	if err != nil {
		return answers{}, err
	}
	got, err := p.answer("/", jsonType, all, http.StatusCreated)
	if err != nil {
		return answers{}, err
	}
	if err := p.kill(); err != nil {
		return answers{}, err
	}
	return got, b.close()
}
