package rest

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

type originKey struct{}

// origin is where the request of ctx came from, as the guard found it.
func origin(ctx context.Context) task.Origin {
	o, _ := ctx.Value(originKey{}).(task.Origin)
	return o
}

// guard is what every request passes before its route. A panic becomes a 500.
func (a *API) guard(next http.Handler) http.Handler {
	return a.handle(func(w http.ResponseWriter, r *http.Request) (err error) {
		defer func() {
			v := recover()
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares the panic value the same way
				panic(v)
			}
			if v != nil {
				a.log.Error("request panicked", "panic", v, "stack", string(debug.Stack()))
				err = refuse(http.StatusInternalServerError, ourFault)
			}
		}()
		origin, err := a.admit(w, r)
		if err != nil {
			return err
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originKey{}, origin)))
		return nil
	})
}

// admit refuses forms of other sites and callers without a token. The
// correlation id is echoed in every answer, so it comes first.
func (a *API) admit(w http.ResponseWriter, r *http.Request) (o task.Origin, err error) {
	id, ok := correlation(r.Header)
	w.Header()["X-Correlation-Id"] = []string{id}
	if !ok {
		return o, refuse(http.StatusBadRequest, "The header X-Correlation-ID must be 1 to 128 printable ASCII characters.")
	}
	if a.origin.Check(r) != nil {
		return o, refuse(http.StatusForbidden, "A page of another site may not change tasks.")
	}
	o.CorrelationID = id
	// The event continues the request's span, which continues the caller's; without
	// spans it continues the caller's itself.
	if o.TraceParent, o.TraceState = trace.Current(r.Context()); o.TraceParent == "" {
		o.TraceParent, o.TraceState = trace.FromHeader(r.Header)
	}
	if a.tokens == nil || public(r.URL.Path) {
		return o, nil
	}
	if o.Actor, ok = a.tokens.Name(token.FromHeader(r.Header)); !ok {
		a.refusals.Add(w, r, token.Failed(r.Header))
		return o, refuse(http.StatusUnauthorized, "This call needs the header Authorization: Bearer TOKEN with a known token.").
			with("WWW-Authenticate", `Bearer realm="taskapi"`)
	}
	return o, nil
}

// public paths hold nothing but documentation.
func public(path string) bool {
	return path == "/openapi.json" || path == "/docs" || strings.HasPrefix(path, "/docs/")
}

// newCorrelation makes a uuid. It has to be unique and not secret: the generator
// of math/rand (ChaCha8, seeded by the system) asks the kernel for nothing.
func newCorrelation() string {
	var id uuid.UUID
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // version 4
	return id.String()
}

// correlation is the caller's id or a new one; false if the caller's is unusable.
func correlation(h http.Header) (string, bool) {
	given, present := h["X-Correlation-Id"]
	if !present {
		return newCorrelation(), true
	}
	if len(given) != 1 || !printable(given[0], 128) {
		return newCorrelation(), false
	}
	return given[0], true
}
