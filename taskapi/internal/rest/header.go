package rest

import (
	"crypto/sha256"
	"net/http"
	"slices"
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
	list, err := tags(h, "If-Match")
	if err != nil || list == nil || slices.Contains(list, "*") {
		return nil, err
	}
	versions := []int64{}
	for _, tag := range list {
		if v, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64); err == nil && tag[0] == '"' {
			versions = append(versions, v)
		}
	}
	return versions, nil
}

// noneMatch reports whether If-None-Match names etag.
func noneMatch(h http.Header, etag string) (bool, error) {
	list, err := tags(h, "If-None-Match")
	return slices.ContainsFunc(list, func(tag string) bool {
		return tag == "*" || strings.TrimPrefix(tag, "W/") == etag
	}), err
}

// tags lists the ETags of a header, nil when it is absent. A star stands alone.
func tags(h http.Header, name string) ([]string, error) {
	given, present := h[name]
	if !present {
		return nil, nil
	}
	list := strings.Split(strings.Join(given, ","), ",")
	for i, tag := range list {
		tag = strings.TrimSpace(tag)
		list[i] = tag
		quoted := strings.TrimPrefix(tag, "W/")
		star := tag == "*" && len(list) == 1
		if !star && (len(quoted) < 2 || quoted[0] != '"' || strings.IndexByte(quoted[1:], '"') != len(quoted)-2) {
			return nil, refuse(http.StatusBadRequest, "The header "+name+` must be a quoted ETag as this API gives it, such as "3", several with commas, or *.`)
		}
	}
	return list, nil
}

func printable(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
