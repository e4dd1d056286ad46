package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// BatchContentType is that of a Batch.
const BatchContentType = "application/cloudevents-batch+json; charset=utf-8"

// takesBatches looks for the media type of a batch in Accept-Post, the list of
// what a resource takes as the body of a POST.
func takesBatches(answer http.Header) bool {
	for _, value := range answer["Accept-Post"] {
		for item := range strings.SplitSeq(value, ",") {
			media, _, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(media), "application/cloudevents-batch+json") {
				return true
			}
		}
	}
	return false
}

// AnswerPerEvent is how much of an answer is read for each event of a batch,
// beyond what is read of any answer.
const AnswerPerEvent = 1 << 10

// Batch is the body of a post with several events. One is used for post after
// post, so that their bodies take memory once.
type Batch struct {
	body   []byte
	events int
	open   *atomic.Int32 // readers of body that are not closed yet
}

// Reset empties it. A transport may still send a body whose post has been
// answered; then that keeps its memory, and the next body gets new.
func (b *Batch) Reset() {
	if b.open == nil || b.open.Load() > 0 {
		b.body, b.open = nil, new(atomic.Int32)
	}
	b.body, b.events = append(b.body[:0], '[', ']'), 0
}

// Add appends an event in its structured form.
func (b *Batch) Add(event []byte) {
	b.body = b.body[:len(b.body)-1]
	if b.events > 0 {
		b.body = append(b.body, ',')
	}
	b.body = append(append(b.body, event...), ']')
	b.events++
}

// reader returns the body to send.
func (b *Batch) reader() io.ReadCloser {
	b.open.Add(1)
	return &batchReader{Reader: bytes.NewReader(b.body), open: b.open}
}

type batchReader struct {
	*bytes.Reader
	open   *atomic.Int32
	closed atomic.Bool
}

func (r *batchReader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		r.open.Add(-1)
	}
	return nil
}

// answeredBatch judges the answer to n events. An array of n statuses gives each
// event the outcome that its status would have as the answer to that event alone.
// Without an array the answer is for the batch as a whole. An array that cannot be
// read as n statuses accepts nothing: nobody knows which events the sink has.
func answeredBatch(resp *http.Response, n int) Result {
	limit := drainLimit + n*AnswerPerEvent
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return incomplete(resp, err)
	}
	text := bytes.TrimLeft(answer, " \t\r\n")
	whole := judge(resp, string(text[:min(len(text), 512)]))
	redirect := resp.StatusCode >= 300 && resp.StatusCode < 400
	if len(text) == 0 || text[0] != '[' || redirect {
		return whole
	}
	each, err := outcomes(text, n, resp.Header.Get("Retry-After"))
	if len(answer) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	switch {
	case err != nil && whole.Outcome == Accepted:
		err = fmt.Errorf("sink answered %d with an array that does not give each of the %d events a status: %w", resp.StatusCode, n, err)
		return Result{Outcome: SinkFault, Status: resp.StatusCode, Err: err}
	case err != nil:
		return whole
	}
	for _, res := range each {
		if res.Outcome != Accepted {
			return Result{Outcome: res.Outcome, Status: resp.StatusCode, RetryAfter: res.RetryAfter, Err: res.Err, Each: each}
		}
	}
	if whole.Outcome != Accepted && resp.StatusCode >= 300 {
		return whole // the answer contradicts itself
	}
	return Result{Outcome: Accepted, Status: resp.StatusCode, Each: each}
}

// outcomes reads [{"status": 201}, {"status": 409, ...}].
func outcomes(answer []byte, n int, wait string) ([]Result, error) {
	var items []jsontext.Value
	if err := json.Unmarshal(answer, &items); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if len(items) != n {
		return nil, fmt.Errorf("it has %d items", len(items))
	}
	each := make([]Result, n)
	for i, item := range items {
		var of struct {
			Status int `json:"status"`
		}
		if err := json.Unmarshal(item, &of); err != nil || of.Status < 200 || of.Status > 599 {
			return nil, fmt.Errorf("item %d has no status from 200 to 599", i)
		}
		each[i] = Result{Outcome: classify(of.Status), Status: of.Status}
		if each[i].Outcome != Accepted {
			each[i].RetryAfter = retryAfter(wait, time.Now())
			each[i].Err = fmt.Errorf("sink answered %d for this event of a batch%s", of.Status, quote(string(item)))
		}
	}
	return each, nil
}
