package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/retry"
)

// allAnswers are what the recorder can do instead of forwarding a post. The lost
// answer (cut-after) is listed several times: no other makes the auditor receive
// an event twice.
const allAnswers = "cut-after,302,500,cut-after,503,hang,cut,cut-after"

// recorder is a proxy in front of a sink that records every post. Each start of
// a bridge has a path of its own, so that posts of a killed bridge are never
// taken for those of the next.
type recorder struct {
	clock    clock
	posts    atomic.Int64
	client   *http.Client
	server   *http.Server
	serving  sync.WaitGroup
	addr     string
	mode     atomic.Pointer[string] // nil = forward
	paused   atomic.Pointer[starts] // nil = the subscription may post
	pauses   *pauses
	inFlight atomic.Int64
	refused  atomic.Int64 // answers of a sink that cannot store
	rejected atomic.Int64 // posts answered with 422, whose events become dead letters
	turn     int          // of the modes; owned by injectFaults

	mu    sync.Mutex // guards what follows; held while a line is written
	sinks []string   // asked in turn
	file  *file
	acks  []int64 // when each 2xx was given
	err   error
}

func newRecorder(c clock, f *file) (*recorder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &recorder{clock: c, file: f, addr: l.Addr().String(), client: &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	r.serving.Go(func() {
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.fail(err)
		}
	})
	return r, nil
}

// sink adds one that is asked in its turn, and returns what replaces its address.
func (r *recorder) sink(addr string) (replace func(addr string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.sinks)
	r.sinks = append(r.sinks, "http://"+addr+"/")
	return func(addr string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sinks[i] = "http://" + addr + "/"
	}
}

// next is the address for a post.
func (r *recorder) next() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sinks[int(r.posts.Add(1))%len(r.sinks)]
}

func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

func (r *recorder) close() error {
	err := r.server.Close()
	r.serving.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(err, r.err)
}

func (r *recorder) acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acks)
}

// ackedAfter returns the time of the first 2xx after at, 0 when there is none.
func (r *recorder) ackedAfter(at int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.acks {
		if a > at {
			return a
		}
	}
	return 0
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.inFlight.Add(1)
	defer r.inFlight.Add(-1)
	d := check.Delivery{Start: r.clock.now(), Via: strings.Trim(req.URL.Path, "/")}
	if known := r.paused.Load(); known != nil && known.breaks(d.Via) {
		r.pauses.broken.Add(1)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the bridge was killed, or its connection was
	}
	if req.Method != http.MethodPost { // a redirect was followed: a login page answers 200
		w.WriteHeader(http.StatusOK)
		return
	}
	d.Partition, _ = strconv.Atoi(req.Header.Get("Taskwire-Partition"))
	d.Attempt, _ = strconv.Atoi(req.Header.Get("Taskwire-Attempt"))
	p, err := contents(req, body, d)
	if err != nil {
		r.fail(err)
	}
	mode := ""
	// A quarter gets through, so that delivered and failed events mix.
	if m := r.mode.Load(); m != nil && rand.IntN(4) > 0 {
		mode = *m
	}
	r.answer(w, req, body, p, mode)
}

func (r *recorder) answer(w http.ResponseWriter, req *http.Request, body []byte, p posted, mode string) {
	switch mode {
	case "500", "503", "302", "422":
		status, _ := strconv.Atoi(mode)
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Location", "/login")
		p.answered(status, nil)
		r.record(p)
		w.WriteHeader(status)
		if mode == "422" {
			r.rejected.Add(1)
		}
		return
	case "hang":
		_ = retry.Pause(req.Context(), 8*time.Second) // the bridge gives up earlier
		fallthrough
	case "cut":
		r.record(p)
		panic(http.ErrAbortHandler)
	}
	status, answer := r.forward(req, body)
	if status == http.StatusServiceUnavailable || status == http.StatusInsufficientStorage {
		r.refused.Add(1)
	}
	p.answered(status, answer)
	for i := range p {
		p[i].Sink = p[i].Status
	}
	if status == 0 {
		status = http.StatusBadGateway
		p.answered(status, nil)
	}
	if mode == "cut-after" || req.Context().Err() != nil {
		p.answered(0, nil)
		r.record(p)
		panic(http.ErrAbortHandler)
	}
	r.record(p) // before the answer: a commit caused by it comes later
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

func (r *recorder) forward(req *http.Request, body []byte) (int, []byte) {
	// The context of the request: the auditor may still finish what the bridge
	// has given up, as on any network.
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, r.next(), bytes.NewReader(body))
	if err != nil {
		r.fail(err)
		return 0, nil
	}
	out.Header = req.Header.Clone()
	resp, err := r.client.Do(out)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body) // the status line is the acknowledgement
	return resp.StatusCode, answer
}

func (r *recorder) record(p posted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.clock.now()
	for _, d := range p {
		d.End = end
		if d.Status/100 == 2 {
			r.acks = append(r.acks, end)
		}
		r.err = errors.Join(r.err, r.file.write(d))
	}
}
