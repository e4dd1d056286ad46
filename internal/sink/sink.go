// Package sink is the receiving half of CloudEvents over HTTP. It reads one
// event, structured or binary, or a batch, passes it to a Receiver, and turns
// the results into the answer.
package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/httpd"
)

// MaxBody limits the body of a request, in bytes.
const MaxBody = event.MaxBytes

// Result is a receiver's answer for one event.
type Result struct {
	Status     int            // 2xx: accepted
	Body       any            // encoded as JSON, by its own AppendJSON if it has one; nil for none
	RetryAfter time.Duration  // for 503 and 429; rounded up to seconds
	Problem    *httpd.Problem // for a refusal, in place of Status and Body
}

// Receiver handles events in the order given and returns one result for each.
// A 2xx means that the event is safe: its sender will forget it. A 4xx other than
// 408, 425 and 429 blames the event, and its sender gives it up.
type Receiver func(ctx context.Context, events []event.Event) []Result

// Handler serves POST / and OPTIONS / for recv.
func Handler(recv Receiver) http.Handler {
	mux, room := http.NewServeMux(), newSpace()
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) { post(w, r, room, recv) })
	mux.HandleFunc("OPTIONS /{$}", handshake)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", "POST, OPTIONS")
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusMethodNotAllowed, Detail: "POST one CloudEvent or a batch"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "events are accepted at /"})
	})
	return mux
}

// handshake consents to deliveries as the CloudEvents webhook specification asks.
func handshake(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", "POST, OPTIONS")
	if origin := r.Header.Get("WebHook-Request-Origin"); origin != "" {
		h.Set("WebHook-Allowed-Origin", origin)
		h.Set("WebHook-Allowed-Rate", "*")
	}
	w.WriteHeader(http.StatusOK)
}

// accepted tells a sender that it may post batches; a bridge in mode auto does then.
var accepted = []string{"application/cloudevents+json, application/cloudevents-batch+json"}

func post(w http.ResponseWriter, r *http.Request, room space, recv Receiver) {
	w.Header()["Accept-Post"] = accepted
	if c := r.Header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
		w.Header().Set("Accept-Encoding", "identity")
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnsupportedMediaType, Detail: "the body has a content encoding; send it without"})
		return
	}
	body, err := read(w, r)
	if err != nil {
		httpd.WriteProblem(w, refusal(err))
		return
	}
	results, n, err := room.receive(r, body, recv)
	if err != nil {
		httpd.WriteProblem(w, refusal(err))
		return
	}
	if len(results) != n {
		// Nobody knows which event a result is for, so none may count.
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusInternalServerError})
		return
	}
	if n == 1 && !isBatch(r) {
		write(w, results[0])
		return
	}
	writeBatch(w, results)
}

// read returns the whole body: nothing is decided about half an event.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxBody {
		return nil, &http.MaxBytesError{Limit: MaxBody}
	}
	// Bounded, because announcing a length costs a sender nothing.
	if r.ContentLength > 0 && r.ContentLength <= 64<<10 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(64<<10 + bytes.MinRead)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, MaxBody))
	return buf.Bytes(), err
}

func isBatch(r *http.Request) bool {
	const batch = "application/cloudevents-batch"
	ct := r.Header.Get("Content-Type")
	return len(ct) >= len(batch) && bytes.EqualFold([]byte(ct[:len(batch)]), []byte(batch))
}

// refusal is the one mapping from what is wrong with a request to its answer.
func refusal(err error) httpd.Problem {
	var invalid *event.InvalidError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return httpd.Problem{Status: http.StatusRequestEntityTooLarge, Detail: "the limit for an event or a batch is 1 MiB"}
	case errors.Is(err, event.ErrMediaType):
		return httpd.Problem{Status: http.StatusUnsupportedMediaType, Detail: err.Error()}
	case errors.As(err, &invalid):
		return httpd.Problem{Status: http.StatusBadRequest, Title: "Not a CloudEvent", Detail: invalid.Detail(),
			Errors: []httpd.ProblemItem{{Pointer: invalid.Pointer(), Detail: invalid.Reason}}}
	}
	// A 400 would make the sender give up an event that was only cut on the way.
	return httpd.Problem{Status: http.StatusRequestTimeout, Detail: "the body ended early; send it again"}
}

// Refuse is the result for an event that will never be accepted.
func Refuse(title string, err error) Result {
	p := refusal(err)
	p.Status, p.Title = http.StatusBadRequest, title
	return Result{Problem: &p}
}

func write(w http.ResponseWriter, res Result) {
	if res.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(res.RetryAfter.Seconds()))))
	}
	if res.Problem != nil {
		httpd.WriteProblem(w, *res.Problem)
		return
	}
	if res.Body == nil {
		w.WriteHeader(res.Status)
		return
	}
	writeJSON(w, res.Status, appendJSON(make([]byte, 0, 64), res.Body))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = contentJSON
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a sender that is gone will send again
}

var contentJSON = []string{"application/json"}

func appendJSON(b []byte, v any) []byte {
	if a, ok := v.(interface{ AppendJSON([]byte) []byte }); ok {
		return a.AppendJSON(b)
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // bodies are structs of strings and numbers
	}
	return append(b, text...)
}

// writeBatch answers 200 when every event was accepted, else the worst status.
// Sending the whole batch again is always right: duplicates are recognised. The body
// is an array with {"status", "result"} or {"status", "problem"} for each event.
func writeBatch(w http.ResponseWriter, results []Result) {
	status := http.StatusOK
	body := append(make([]byte, 0, 2+72*len(results)), '[')
	for i, res := range results {
		if res.Problem != nil {
			res.Status = res.Problem.Status
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendInt(append(body, `{"status":`...), int64(res.Status), 10)
		if res.Body != nil {
			body = appendJSON(append(body, `,"result":`...), res.Body)
		}
		if res.Problem != nil {
			body = appendJSON(append(body, `,"problem":`...), res.Problem)
		}
		body = append(body, '}')
		if res.Status >= 300 {
			status = max(status, res.Status)
		}
		if res.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(res.RetryAfter.Seconds()))))
		}
	}
	writeJSON(w, status, append(body, ']'))
}
