package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/internal/event"
)

const structuredType = event.HTTPContentType

// bodies are n structured events of about 400 bytes over keys tasks, in order per task.
func bodies(n, keys int) (tasks []string, out [][]byte) {
	ids := make([]string, keys)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	for i := range n {
		task := ids[i%keys]
		body, err := event.AppendChange(nil, event.Change{
			ID: uuid.Must(uuid.NewV7()).String(), Type: event.TypeCreated, Time: time.Now(), TaskVersion: int64(i/keys + 1),
			CorrelationID: uuid.NewString(),
			Data:          event.Data{TaskID: task, Title: "A title of usual length for a task", Status: "pending"},
		})
		if err != nil {
			panic(err) // the values above are valid
		}
		tasks, out = append(tasks, task), append(out, body)
	}
	return tasks, out
}

// target is a sink that takes delay for each post and records when it came.
type target struct {
	URL     string
	delay   time.Duration
	conns   atomic.Int64
	chunked atomic.Int64  // posts without a length
	want    int           // different events
	full    chan struct{} // closed when they have come
	srv     *http.Server
	serving sync.WaitGroup

	down   atomic.Bool  // answers 503
	active atomic.Int64 // posts that came and are not answered

	mu    sync.Mutex           // guards what follows
	seen  map[string]time.Time // by event id; first arrival
	again int                  // arrivals of events that had come before
	first time.Time
	last  time.Time
	posts int
}

func newTarget(delay time.Duration, want int) *target {
	t := &target{delay: delay, want: want, seen: make(map[string]time.Time, want), full: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // a machine without a free port cannot run this at all
	}
	t.URL = "http://" + l.Addr().String() + "/"
	t.srv = &http.Server{Handler: t, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			t.conns.Add(1)
		}
	}}
	t.serving.Go(func() { _ = t.srv.Serve(l) }) // ended by close
	return t
}

func (t *target) close() {
	_ = t.srv.Close()
	t.serving.Wait()
}

func (t *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.active.Add(1)
	defer t.active.Add(-1)
	if r.ContentLength < 0 {
		t.chunked.Add(1)
	}
	var body bytes.Buffer
	_, _ = body.ReadFrom(r.Body)
	if t.down.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if t.delay > 0 {
		time.Sleep(t.delay)
	}
	t.arrived(body.Bytes())
	w.WriteHeader(http.StatusNoContent)
}

// arrived is called when the answer is about to be sent.
func (t *target) arrived(body []byte) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.posts++
	if t.first.IsZero() {
		t.first = now
	}
	t.last = now
	if !bytes.HasPrefix(body, []byte("[")) {
		t.note(eventID(body), now)
		return
	}
	for i := 0; i >= 0; i = bytes.Index(body, []byte(idMark)) { // each event of a batch
		body = body[i:]
		t.note(eventID(body), now)
		body = body[min(len(body), bytes.Index(body, []byte(idMark))+len(idMark)):]
	}
}

func (t *target) count() (events, posts int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen), t.posts
}

// note is called with mu held.
func (t *target) note(id string, now time.Time) {
	if _, ok := t.seen[id]; ok {
		t.again++
		return
	}
	t.seen[id] = now
	if len(t.seen) == t.want {
		close(t.full)
	}
}

const idMark = `"id":"`

// eventID finds the id without decoding the body: the sink must cost as little as possible.
func eventID(body []byte) string {
	i := bytes.Index(body, []byte(idMark))
	if i < 0 {
		return string(body)
	}
	rest := body[i+len(idMark):]
	j := bytes.IndexByte(rest, '"')
	return string(rest[:max(j, 0)])
}

func (t *target) wait(ctx context.Context) error {
	select {
	case <-t.full:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Minute):
		t.mu.Lock()
		defer t.mu.Unlock()
		return fmt.Errorf("%d of %d events arrived within 3 minutes", len(t.seen), t.want)
	}
}

func (t *target) seconds() float64 { return t.last.Sub(t.first).Seconds() }

// client keeps up to conns connections open, as the services' own clients do.
func client(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns, DisableCompression: true}}
}

// postAll posts every body over conns connections; any status but ok is an error.
func postAll(c *http.Client, conns int, url, contentType string, bodies [][]byte, ok int) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for range conns {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				resp, err := c.Post(url, contentType, bytes.NewReader(bodies[i]))
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != ok {
						err = fmt.Errorf("post: status %d, want %d", resp.StatusCode, ok)
					}
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// percentiles are in seconds.
func percentiles(d []time.Duration) (p50, p99 float64) {
	if len(d) == 0 {
		return 0, 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Seconds(), d[len(d)*99/100].Seconds()
}
