package httpd

import (
	"bufio"
	"context"
	"net/http"
	"time"
)

// pieceBytes is what an answer holds in memory at a time.
const pieceBytes = 32 << 10

// Answers bounds how many long answers are written at a time. A client that does
// not take the next piece of its answer in time loses it: 5 s, 1 s when more than
// half of the answers are out, and a quarter of a second when others wait.
type Answers struct{ shares *shares }

// NewAnswers allows n at a time and lets 512 more wait.
func NewAnswers(n int64) *Answers { return &Answers{newShares(n, 512)} }

// Stream answers 200 with the JSON that write produces piece by piece, after its
// turn has come, or 503. An error of write cuts the answer, so that a client
// cannot take a part for the whole.
func (a *Answers) Stream(w http.ResponseWriter, r *http.Request, write func(ctx context.Context, out *bufio.Writer) error) {
	if !a.shares.take(r.Context(), 1) {
		Busy(w)
		return
	}
	defer a.shares.give(1)
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(&piecewise{w, http.NewResponseController(w), a.shares}, pieceBytes)
	err := write(r.Context(), out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// piecewise gives each piece a deadline of its own, so that a long answer to a
// steady reader is not cut.
type piecewise struct {
	w      http.ResponseWriter
	ctl    *http.ResponseController
	shares *shares
}

func (p *piecewise) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		_ = p.ctl.SetWriteDeadline(time.Now().Add(p.shares.patience())) // without one the server's own limit holds
		var m int
		m, err = p.w.Write(b[:min(len(b), pieceBytes)])
		n, b = n+m, b[m:]
	}
	return n, err
}
