package rest

import (
	"crypto/sha256"
	"net/http"
	"strconv"
	"strings"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func etag(t task.Task) string { return `"` + strconv.FormatInt(t.Version, 10) + `"` }

// idempotencyKey reads the Idempotency-Key. The caller's name is part of the
// key, so that two callers using the same key do not collide; method, path and
// body are the request that the key stands for.
func idempotencyKey(r *http.Request, body []byte) (task.IdempotencyKey, error) {
	given, present := r.Header["Idempotency-Key"]
	if !present {
		return task.IdempotencyKey{}, nil
	}
	if len(given) != 1 || !printable(given[0], 255) {
		return task.IdempotencyKey{}, refuse(http.StatusBadRequest, "The header Idempotency-Key must be 1 to 255 printable ASCII characters.")
	}
	request := append([]byte(r.Method+" "+r.URL.Path+"\n"), body...)
	return task.IdempotencyKey{Value: origin(r.Context()).Actor + "\n" + given[0], Fingerprint: sha256.Sum256(request)}, nil
}

// ifMatch is the versions that the caller accepts, nil for any. Weak tags
// never match, as RFC 9110 says.
func ifMatch(h http.Header) ([]int64, error) {
	given, present := h["If-Match"]
	if !present {
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

// noneMatch reports whether If-None-Match names etag.
func noneMatch(h http.Header, etag string) bool {
	for tag := range strings.SplitSeq(strings.Join(h["If-None-Match"], ","), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == etag || tag == "*" {
			return true
		}
	}
	return false
}

func printable(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
