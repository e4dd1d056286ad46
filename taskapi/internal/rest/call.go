package rest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// maxBody is far above the largest task and small enough to be read whole.
const maxBody = 64 << 10

// call is what is known of a request beside its route.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	origin task.Origin
}

type callKey struct{}

func callFrom(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return &call{} // only outside of a request, where nothing is known
	}
	return c
}

// guard is what every request passes before its route: a panic ends as a 500,
// the correlation id is echoed whatever follows, a form of another site and a
// caller without a token get no further.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares the panic value the same way
					panic(v)
				}
				a.log.Error("a request panicked", "panic", v, "stack", string(debug.Stack()))
				write(w, refuse(http.StatusInternalServerError, "The fault is on our side and was logged."))
			}
		}()
		c := &call{w: w, r: r}
		id, ok := correlation(r.Header)
		w.Header().Set("X-Correlation-ID", id)
		switch {
		case !ok:
			write(w, refuse(http.StatusBadRequest, "The header X-Correlation-ID must be 1 to 128 printable ASCII characters."))
			return
		case a.origin.Check(r) != nil:
			write(w, refuse(http.StatusForbidden, "A page of another site may not change tasks."))
			return
		}
		c.origin.CorrelationID = id
		c.origin.TraceParent, c.origin.TraceState = trace(r.Header)
		if a.tokens != nil && !public(r.URL.Path) {
			if c.origin.Actor, ok = a.tokens.Name(bearer(r.Header)); !ok {
				write(w, refuse(http.StatusUnauthorized, "This call needs the header Authorization: Bearer TOKEN with a known token.").
					with("WWW-Authenticate", `Bearer realm="taskapi"`))
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}

// public paths hold nothing but documentation.
func public(path string) bool {
	return path == "/openapi.json" || path == "/docs" || strings.HasPrefix(path, "/docs/")
}

// correlation is the caller's id or a new one; false when the caller's cannot be used.
func correlation(h http.Header) (string, bool) {
	given, there := h["X-Correlation-Id"]
	if !there {
		return uuid.NewString(), true
	}
	if len(given) != 1 || !printable(given[0], 128) {
		return uuid.NewString(), false
	}
	return given[0], true
}

func printable(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// trace reads the W3C trace context. A header that is not one starts no
// error: the recommendation says to go on without.
func trace(h http.Header) (parent, state string) {
	given := h["Traceparent"]
	if len(given) != 1 || !isTraceParent(given[0]) {
		return "", ""
	}
	state = strings.Join(h["Tracestate"], ",")
	if !printable(state, 512) {
		state = ""
	}
	return given[0], state
}

// isTraceParent accepts version 00: version, trace id, parent id, flags.
func isTraceParent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	id, parent, flags := s[3:35], s[36:52], s[53:]
	return isHex(id) && isHex(parent) && isHex(flags) && strings.Trim(id, "0") != "" && strings.Trim(parent, "0") != ""
}

func isHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

func bearer(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// body reads the whole body. What curl sends with -d and no content type is
// taken as JSON; a browser's form of another site was refused before.
func (c *call) body() ([]byte, error) {
	if given := c.r.Header.Get("Content-Type"); given != "" {
		media, _, err := mime.ParseMediaType(given)
		if err != nil || (media != "application/json" && media != "application/merge-patch+json" && media != "application/x-www-form-urlencoded") {
			return nil, refuse(http.StatusUnsupportedMediaType, "The body must be application/json.").with("Accept-Post", "application/json")
		}
	}
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, refuse(http.StatusUnsupportedMediaType, "The body must not be compressed.").with("Accept-Encoding", "identity")
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var large *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &large):
		return nil, refuse(http.StatusRequestEntityTooLarge, "The body may have at most 65536 bytes.")
	case errors.As(err, &network) && network.Timeout():
		return nil, refuse(http.StatusRequestTimeout, "The body did not arrive in time.")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "The body could not be read to its end.")
	}
	return body, nil
}

// once reads the Idempotency-Key. The caller's name is part of the key, so
// that two callers with the same idea of a key do not meet; method, path and
// body are the request that the key stands for.
func (c *call) once(body []byte) (task.Once, error) {
	given, there := c.r.Header["Idempotency-Key"]
	if !there {
		return task.Once{}, nil
	}
	if len(given) != 1 || !printable(given[0], 255) {
		return task.Once{}, refuse(http.StatusBadRequest, "The header Idempotency-Key must be 1 to 255 printable ASCII characters.")
	}
	request := append([]byte(c.r.Method+" "+c.r.URL.Path+"\n"), body...)
	return task.Once{Key: c.origin.Actor + "\n" + given[0], Fingerprint: sha256.Sum256(request)}, nil
}

// match reads If-Match: the versions that the caller accepts, nil for any.
// Weak tags never match, as RFC 9110 says.
func (c *call) match() ([]int64, error) {
	given, there := c.r.Header["If-Match"]
	if !there {
		return nil, nil
	}
	versions := []int64{}
	for tag := range strings.SplitSeq(strings.Join(given, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" {
			return nil, nil
		}
		quoted, weak := strings.CutPrefix(tag, "W/")
		if len(quoted) < 2 || quoted[0] != '"' || quoted[len(quoted)-1] != '"' {
			return nil, refuse(http.StatusBadRequest, `The header If-Match must be a quoted ETag as this API gives it, such as "3", or *.`)
		}
		if v, err := strconv.ParseInt(quoted[1:len(quoted)-1], 10, 64); err == nil && !weak {
			versions = append(versions, v)
		}
	}
	return versions, nil
}

// unchanged says whether If-None-Match names this ETag already.
func (c *call) unchanged(etag string) bool {
	for tag := range strings.SplitSeq(strings.Join(c.r.Header["If-None-Match"], ","), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == etag || tag == "*" {
			return true
		}
	}
	return false
}
