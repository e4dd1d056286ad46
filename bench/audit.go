package main

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"time"
)

// benchAudit measures appends of 64 clients, each on disk before its answer. The
// yardstick does that and nothing else: it appends the body, syncs, answers.
func benchAudit(ctx context.Context, r *rig, t *table) error {
	n := r.n(60_000)
	_, all := bodies(n, min(n, 1000))
	bare, err := r.bareAppends(ctx, structuredType, all)
	if err != nil {
		return err
	}
	auditor, err := r.auditor(ctx, filepath.Join(r.sub("audit"), "audit.log"))
	if err != nil {
		return err
	}
	r.say("auditor, single posts")
	profiled := r.profile(ctx, map[string]*proc{"auditor-single": auditor}, 6*time.Second)
	single, err := auditor.answer("/", structuredType, all, http.StatusCreated)
	if err != nil {
		return err
	}
	batches := r.n(2000)
	_, all = bodies(100*batches, 20_000) // 200 posts until a task comes again: the 64 clients do not reorder its versions
	posts := make([][]byte, batches)
	for i := range posts {
		posts[i] = append(append([]byte("["), bytes.Join(all[100*i:100*i+100], []byte(","))...), ']')
	}
	if err := <-profiled; err != nil {
		return err
	}
	r.say("auditor, batches of 100")
	profiled = r.profile(ctx, map[string]*proc{"auditor-batch": auditor}, 5*time.Second)
	batched, err := auditor.answer("/", "application/cloudevents-batch+json", posts, http.StatusOK)
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	t.against("acknowledged appends, against bare append + fsync", perSecond, single.rate, bare.rate, atLeast(0.9))
	t.against("in batches of 100, against single ones", perSecond, 100*batched.rate, single.rate, atLeast(5))
	if bare.cpu > 0 {
		t.against("CPU of the server an append, against bare append + fsync", seconds, single.cpu, bare.cpu, none)
		t.against("CPU of the server an event in a batch, against a single one", seconds, batched.cpu/100, single.cpu, none)
	}
	_, err = auditor.stop()
	return err
}

func (r *rig) auditor(ctx context.Context, log string) (*proc, error) {
	return r.service(ctx, "auditor", "AUDIT_LOG_PATH="+log, "LOG_LEVEL=warn")
}

// answers are how many posts a server answered a second, and the seconds of CPU it
// used for each, which depend less on what else the machine does; 0 where the system
// does not tell.
type answers struct{ rate, cpu float64 }

func (p *proc) answer(path, contentType string, all [][]byte, ok int) (answers, error) {
	before, err1 := cpuOf(p.Pid())
	rate, err := postRate(p.url+path, contentType, all, ok)
	after, err2 := cpuOf(p.Pid())
	if err1 != nil || err2 != nil {
		return answers{rate: rate}, err
	}
	return answers{rate, (after - before) / float64(len(all))}, err
}

// bareAppends is the yardstick.
func (r *rig) bareAppends(ctx context.Context, contentType string, all [][]byte) (answers, error) {
	r.say("bare append + fsync")
	p, err := r.server(ctx, "append", filepath.Join(r.sub("bare"), "log"))
	if err != nil {
		return answers{}, err
	}
	got, err := p.answer("/", contentType, all, http.StatusCreated)
	if err != nil {
		return answers{}, err
	}
	return got, p.kill()
}

// postRate posts all bodies from 64 clients and returns how many a second were answered.
func postRate(url, contentType string, all [][]byte, ok int) (float64, error) {
	c := client(64)
	defer c.CloseIdleConnections()
	began := time.Now()
	err := postAll(c, 64, url, contentType, all, ok)
	return float64(len(all)) / time.Since(began).Seconds(), err
}
