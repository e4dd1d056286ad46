package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// refusal is an error answer. The framework writes it as it is: it tells its
// status, its headers and its content type.
type refusal struct {
	httpd.Problem
	header http.Header
}

func (p *refusal) Error() string             { return p.Title }
func (p *refusal) GetStatus() int            { return p.Status }
func (p *refusal) GetHeaders() http.Header   { return p.header }
func (p *refusal) ContentType(string) string { return "application/problem+json" }

func refuse(status int, detail string, items ...httpd.ProblemItem) *refusal {
	return &refusal{Problem: httpd.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: items,
	}, header: http.Header{"X-Content-Type-Options": {"nosniff"}}}
}

func (p *refusal) with(name, value string) *refusal {
	p.header.Set(name, value)
	return p
}

func notFound(detail string) *refusal { return refuse(http.StatusNotFound, detail) }

func invalid(items ...httpd.ProblemItem) *refusal {
	return refuse(http.StatusUnprocessableEntity, "The body is JSON, but not what this call takes; see errors.", items...)
}

// write answers with p outside of the framework.
func write(w http.ResponseWriter, p *refusal) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	httpd.WriteProblem(w, p.Problem)
}

// refusal is the one table from a reason to an answer. What is not in it is a
// fault of ours: the log gets the cause, the caller a bare 500.
func (a *API) refusal(ctx context.Context, err error) *refusal {
	var ready *refusal
	var busy *task.BusyError
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.Is(err, task.ErrNotFound):
		return notFound("There is no task with this id.")
	case errors.Is(err, task.ErrVersion):
		return refuse(http.StatusPreconditionFailed, "The task was changed since the version that If-Match names; read it again.")
	case errors.Is(err, task.ErrKeyReused):
		return refuse(http.StatusUnprocessableEntity, "This Idempotency-Key came with another request before; use a new key for a new request.")
	case errors.As(err, &busy):
		return refuse(http.StatusServiceUnavailable, "Changes are refused for now: "+busy.Reason+". Nothing was changed.").
			with("Retry-After", seconds(busy.RetryAfter))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return refuse(http.StatusServiceUnavailable, "The request was given up before it was answered.").with("Retry-After", "1")
	case errors.Is(err, task.ErrUnavailable):
		a.log.Error("the task store is unavailable", "err", err)
		return refuse(http.StatusServiceUnavailable, "The task store cannot answer now; a repeat with the same Idempotency-Key is safe.").
			with("Retry-After", "1")
	}
	a.log.Error("a request hit a fault", "err", err, "correlation_id", callFrom(ctx).origin.CorrelationID)
	return refuse(http.StatusInternalServerError, "The fault is on our side and was logged.")
}

func seconds(d time.Duration) string {
	return strconv.Itoa(max(1, int(d.Round(time.Second).Seconds())))
}
