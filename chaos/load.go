package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/retry"
)

// task is what a client knows about a task that no other client changes.
type task struct {
	ID      string  `json:"id"`
	Title   string  `json:"title"`
	Status  string  `json:"status"`
	Owner   *string `json:"owner_id"`
	Version int64   `json:"version"`
}

func (t task) state() string {
	owner := ""
	if t.Owner != nil {
		owner = *t.Owner
	}
	return check.State(t.Title, t.Status, owner)
}

// load is shared by all clients.
type load struct {
	clock    clock
	apis     []string // of the Task APIs, each asked in turn
	client   *http.Client
	inFlight atomic.Int64
	requests atomic.Int64
	acks     atomic.Int64

	mu     sync.Mutex
	shared []string // tasks that every client changes; guarded by mu
}

// worker is one client with a history of its own.
type worker struct {
	*load
	rand *rand.Rand
	file *file
	own  []task
	last string        // a nonce that was used, to send it again with another body
	gap  time.Duration // between operations
}

// request is one operation, repeated under its nonce until its outcome is known.
type request struct {
	kind, method, path string
	body               any
	key, ifMatch       string // key = nonce when empty
	task               string
	effect             string
	state              string
	overlay            func(*task) // puts what was sent over what was answered
}

func (w *worker) run(ctx context.Context) error {
	ticker := time.NewTicker(w.gap)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := w.step(ctx); err != nil {
			return err
		}
	}
}

func (w *worker) step(ctx context.Context) error {
	switch n := w.rand.IntN(100); {
	case n < 20 || len(w.own) == 0:
		return w.create(ctx)
	case n < 50:
		return w.update(ctx)
	case n < 60:
		return w.complete(ctx)
	case n < 85:
		return w.sharedUpdate(ctx)
	case n < 91:
		return w.sharedComplete(ctx)
	default:
		return w.refused(ctx, n)
	}
}

func (w *worker) title() string { return fmt.Sprintf("t-%x", w.rand.Uint64()) }

func (w *worker) create(ctx context.Context) error {
	t := task{Title: w.title(), Status: "pending"}
	if w.rand.IntN(2) == 0 {
		owner := uuid(w.rand)
		t.Owner = &owner
	}
	got, known, err := w.do(ctx, request{kind: "create", method: "POST", path: "/tasks", effect: check.EffectYes, state: t.state(),
		body: map[string]any{"title": t.Title, "owner_id": t.Owner}})
	if err != nil || !known || got.ID == "" {
		return err
	}
	t.ID = got.ID
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.shared) < 12 {
		w.shared = append(w.shared, t.ID)
		return nil
	}
	w.own = append(w.own, t)
	return nil
}

// settle updates task i, or forgets it when the outcome of an operation on it
// stays unknown.
func (w *worker) settle(i int, next task, known bool) {
	if known {
		w.own[i] = next
		return
	}
	w.own[i] = w.own[len(w.own)-1]
	w.own = w.own[:len(w.own)-1]
}

func (w *worker) update(ctx context.Context) error {
	i := w.rand.IntN(len(w.own))
	next := w.own[i]
	next.Title = w.title()
	next.Status = []string{"pending", "in_progress", "completed"}[w.rand.IntN(3)]
	_, known, err := w.do(ctx, request{kind: "update", method: "PATCH", path: "/tasks/" + next.ID, task: next.ID, effect: check.EffectYes,
		state: next.state(), body: map[string]any{"title": next.Title, "status": next.Status}})
	w.settle(i, next, known)
	return err
}

func (w *worker) complete(ctx context.Context) error {
	i := w.rand.IntN(len(w.own))
	next, effect := w.own[i], check.EffectYes
	if next.Status == "completed" {
		effect = check.EffectNo
	}
	next.Status = "completed"
	_, known, err := w.do(ctx, request{kind: "complete", method: "POST", path: "/tasks/" + next.ID + "/complete", task: next.ID, effect: effect, state: next.state()})
	w.settle(i, next, known)
	return err
}

func (w *worker) pick() (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.shared) == 0 {
		return "", false
	}
	return w.shared[w.rand.IntN(len(w.shared))], true
}

func (w *worker) sharedUpdate(ctx context.Context) error {
	id, ok := w.pick()
	if !ok {
		return nil
	}
	title := w.title()
	_, _, err := w.do(ctx, request{kind: "shared-update", method: "PATCH", path: "/tasks/" + id, task: id, effect: check.EffectYes,
		body: map[string]any{"title": title, "status": "in_progress"}, overlay: func(t *task) { t.Title, t.Status = title, "in_progress" }})
	return err
}

func (w *worker) sharedComplete(ctx context.Context) error {
	id, ok := w.pick()
	if !ok {
		return nil
	}
	_, _, err := w.do(ctx, request{kind: "shared-complete", method: "POST", path: "/tasks/" + id + "/complete", task: id, overlay: func(t *task) { t.Status = "completed" }})
	return err
}

// refused sends a request that must be answered with 4xx and change nothing.
func (w *worker) refused(ctx context.Context, n int) error {
	id := w.own[w.rand.IntN(len(w.own))].ID
	r := request{kind: "refused-body", method: "POST", path: "/tasks", body: map[string]any{"title": "x", "surprise": 1}}
	switch {
	case n < 94:
		r = request{kind: "refused-etag", method: "PATCH", path: "/tasks/" + id, task: id, ifMatch: `"none"`, body: map[string]any{"title": w.title()}}
	case n < 97 && w.last != "":
		r = request{kind: "refused-key", method: "PATCH", path: "/tasks/" + id, task: id, key: w.last, body: map[string]any{"title": w.title()}}
	}
	_, _, err := w.do(ctx, r)
	return err
}

// do sends a request and, in most cases, repeats it until its outcome is known.
func (w *worker) do(ctx context.Context, r request) (task, bool, error) {
	nonce := uuid(w.rand)
	deadline := time.Now().Add(20 * time.Second)
	if w.rand.IntN(3) == 0 {
		deadline = time.Time{} // some stay unknown
	}
	for {
		got, outcome, err := w.once(ctx, r, nonce)
		if err != nil {
			return task{}, false, err
		}
		switch outcome {
		case check.OK:
			w.last = nonce
			return got, true, nil
		case check.OKUnread:
			return task{}, false, nil
		}
		// A refused connection has no effect, but an earlier attempt may have had one.
		pause := time.Duration(50+w.rand.IntN(300)) * time.Millisecond
		if outcome == refused || time.Now().After(deadline) || retry.Pause(ctx, pause) != nil {
			return task{}, false, nil //nolint:nilerr // an operation that the end of the load leaves unknown is no fault
		}
	}
}

const refused = "refused" // a documented 4xx

func (w *worker) once(ctx context.Context, r request, nonce string) (task, string, error) {
	op := check.Op{Phase: check.Invoke, Nonce: nonce, At: w.clock.now(), Wall: time.Now().UTC().Format(time.RFC3339Nano), Kind: r.kind, Task: r.task, State: r.state}
	if err := w.log(op); err != nil {
		return task{}, "", err
	}
	w.requests.Add(1)
	w.inFlight.Add(1)
	// Otherwise the end of the load would make the last operation of every client unknown.
	done, got := w.send(context.WithoutCancel(ctx), r, nonce, w.behavior())
	w.inFlight.Add(-1)
	done.Nonce, done.At, done.Kind = nonce, w.clock.now(), r.kind
	outcome := done.Phase
	switch {
	case done.Phase == check.OK || done.Phase == check.OKUnread:
		w.acks.Add(1)
	case done.Phase == check.Fail && done.Status != 0:
		outcome = refused
	}
	return got, outcome, w.log(done)
}

// log writes a line and, before a request, syncs it: what a killed client has
// sent must be known.
func (w *worker) log(op check.Op) error {
	if err := w.file.write(op); err != nil || op.Phase != check.Invoke {
		return err
	}
	return w.file.f.Sync()
}

// behavior is what a client does in one request: sometimes it gives up early, or
// disconnects after the status line.
type behavior struct {
	timeout     time.Duration
	disconnects bool
}

func (w *worker) behavior() behavior {
	switch w.rand.IntN(60) {
	case 0:
		return behavior{timeout: time.Duration(1+w.rand.IntN(10)) * time.Millisecond}
	case 1:
		return behavior{timeout: 5 * time.Second, disconnects: true}
	}
	return behavior{timeout: 5 * time.Second}
}

func (w *worker) send(ctx context.Context, r request, nonce string, b behavior) (check.Op, task) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return check.Op{Phase: check.Fail, Error: err.Error()}, task{}
		}
		body = io.NopCloser(bytes.NewReader(text)) // cannot be rewound: the transport must not repeat it
	}
	req, err := http.NewRequestWithContext(ctx, r.method, w.apis[int(w.requests.Load())%len(w.apis)]+r.path, body)
	if err != nil {
		return check.Op{Phase: check.Fail, Error: err.Error()}, task{}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Correlation-ID", nonce)
	req.Header.Set("Idempotency-Key", nonce)
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if r.ifMatch != "" {
		req.Header.Set("If-Match", r.ifMatch)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if sent.Load() {
			return check.Op{Phase: check.Info, Error: err.Error()}, task{}
		}
		return check.Op{Phase: check.Fail, Error: err.Error()}, task{}
	}
	defer resp.Body.Close()
	if b.disconnects {
		return r.judge(resp.StatusCode, nil, io.ErrUnexpectedEOF)
	}
	answer, err := io.ReadAll(resp.Body)
	return r.judge(resp.StatusCode, answer, err)
}

// judge decides what an answer proves. Info is for whatever is uncertain.
func (r request) judge(status int, answer []byte, err error) (check.Op, task) {
	op := check.Op{Status: status, Effect: r.effect, State: r.state, Task: r.task}
	var got task
	switch {
	case status >= 200 && status < 300:
		op.Phase = check.OK
		if err != nil || json.Unmarshal(answer, &got) != nil || got.ID == "" {
			op.Phase = check.OKUnread
			return op, task{}
		}
		op.Task, op.Version = got.ID, got.Version
		if r.overlay != nil {
			sent := got
			r.overlay(&sent)
			op.State = sent.state()
		}
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests && status != http.StatusConflict:
		op.Phase, op.Effect, op.Error = check.Fail, "", string(answer[:min(len(answer), 200)])
	default:
		op.Phase, op.Effect = check.Info, ""
	}
	return op, got
}

func uuid(r *rand.Rand) string {
	h := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}
