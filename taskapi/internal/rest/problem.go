package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const ourFault = "The fault is on our side and was logged."

// refusal is an error that knows its answer.
type refusal struct {
	problem httpd.Problem
	header  http.Header
}

func refuse(status int, detail string, items ...httpd.ProblemItem) *refusal {
	return &refusal{httpd.Problem{Status: status, Detail: detail, Errors: items}, http.Header{}}
}

func invalid(items ...httpd.ProblemItem) *refusal {
	return refuse(http.StatusUnprocessableEntity, "The body is JSON, but not what this call takes; see errors.", items...)
}

func (p *refusal) with(name, value string) *refusal {
	p.header.Set(name, value)
	return p
}

func (p *refusal) Error() string { return p.problem.Detail }

func (p *refusal) write(w http.ResponseWriter) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	httpd.WriteProblem(w, p.problem)
}

// refusal is the one table from an error to an answer. An error that is not in
// it is our fault: the cause is logged and the caller gets a bare 500.
func (a *API) refusal(ctx context.Context, err error) *refusal {
	var ready *refusal
	var busy *task.BusyError
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.Is(err, task.ErrNotFound):
		return refuse(http.StatusNotFound, "There is no task with this id.")
	case errors.Is(err, task.ErrVersion):
		return refuse(http.StatusPreconditionFailed, "The task was changed since the version that If-Match names; read it again.")
	case errors.Is(err, task.ErrKeyReused):
		return refuse(http.StatusUnprocessableEntity, "This Idempotency-Key was used for another request; use a new key for a new request.")
	case errors.As(err, &busy):
		return unavailable("Changes are refused for now: "+busy.Reason+". Nothing was changed.", busy.RetryAfter)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unavailable("The request ended before it was answered.", time.Second)
	case errors.Is(err, task.ErrUnavailable):
		a.storeLog.Do(func() { a.log.Error("task store unavailable", "err", err) })
		return unavailable("The task store cannot answer now; a repeat with the same Idempotency-Key is safe.", time.Second)
	}
	a.log.Error("request failed", "err", err, "correlation_id", origin(ctx).CorrelationID, "trace_id", trace.IDOf(origin(ctx).TraceParent))
	return refuse(http.StatusInternalServerError, ourFault)
}

func unavailable(detail string, retryAfter time.Duration) *refusal {
	seconds := max(1, int(retryAfter.Round(time.Second).Seconds()))
	return refuse(http.StatusServiceUnavailable, detail).with("Retry-After", strconv.Itoa(seconds))
}
