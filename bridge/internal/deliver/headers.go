package deliver

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// Headers are the fixed extra ones of each post. A value "file:PATH" is the
// content of the file, which is read again when it changes.
type Headers struct {
	fixed map[string]string
	files map[string]*secretfile.File[string]
}

const (
	filePrefix = "file:"
	mostHeader = 8 << 10 // bytes of a value; servers take little more for all headers together
)

// CheckHeaders names every mistake in headers, by name and value. Errors do not
// repeat a value: it may be a secret.
func CheckHeaders(headers map[string]string) []string {
	var wrong []string
	names := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if err := checkName(name); err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		key := http.CanonicalHeaderKey(name)
		if twin, ok := names[key]; ok {
			wrong = append(wrong, fmt.Sprintf("%s: is the same header as %s", name, twin))
		}
		names[key] = name
		path, isFile := strings.CutPrefix(headers[name], filePrefix)
		err := checkValue(headers[name])
		if isFile {
			err = secretfile.Check(path, parseValue)
		}
		if err != nil {
			wrong = append(wrong, name+": "+err.Error())
		}
	}
	return wrong
}

// OpenHeaders reads the files; CheckHeaders has found no mistake.
func OpenHeaders(headers map[string]string, log *slog.Logger) (*Headers, error) {
	h := &Headers{fixed: map[string]string{}, files: map[string]*secretfile.File[string]{}}
	for name, value := range headers {
		key := http.CanonicalHeaderKey(name)
		path, isFile := strings.CutPrefix(value, filePrefix)
		if !isFile {
			h.fixed[key] = value
			continue
		}
		file, err := secretfile.Open(path, parseValue, log)
		if err != nil {
			return nil, fmt.Errorf("headers.%s: %w", name, err)
		}
		h.files[key] = file
	}
	return h, nil
}

// add sets all of them, or fails: without one the sink would only refuse the post.
func (h *Headers) add(to *fields) error {
	for key, file := range h.files {
		value, err := file.Load()
		if err != nil {
			return fmt.Errorf("headers.%s: %w", key, err)
		}
		to.set(key, value)
	}
	for key, value := range h.fixed {
		to.set(key, value)
	}
	return nil
}

// Err reports which file cannot be used now.
func (h *Headers) Err() error { return h.add(&fields{}) }

// own are the headers that the bridge sets, or that belong to a connection and not
// to a post. A prefix ends with a hyphen.
var own = []string{
	"Content-", "Taskwire-", "Ce-", "Webhook-", "Host", "User-Agent", "Traceparent", "Tracestate",
	"Connection", "Keep-Alive", "Proxy-", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Http2-Settings",
}

func checkName(name string) error {
	if !isToken(name) {
		return errors.New("a name is not that of a header; want letters, digits and hyphens")
	}
	key := textproto.CanonicalMIMEHeaderKey(name)
	for _, taken := range own {
		if key == taken || strings.HasSuffix(taken, "-") && strings.HasPrefix(key, taken) {
			return fmt.Errorf("%s: is set by the bridge, or belongs to the connection; it cannot be a fixed header", name)
		}
	}
	return nil
}

// isToken is less than RFC 9110 allows: what it leaves out is a mistake more often
// than a header, and could be read differently on the way.
func isToken(name string) bool {
	if name == "" || len(name) > 100 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func checkValue(value string) error {
	switch {
	case value == "":
		return errors.New("its value is empty")
	case len(value) > mostHeader:
		return fmt.Errorf("its value is longer than %d bytes", mostHeader)
	case strings.Trim(value, " \t") != value:
		return errors.New("its value begins or ends with a space")
	}
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c > '~' {
			return errors.New("its value has a character that is not printable ASCII; want one line")
		}
	}
	return nil
}

// parseValue reads one line; an editor's line feed at its end is not part of it.
func parseValue(content []byte) (string, error) {
	value := strings.TrimRight(string(content), "\r\n")
	return value, checkValue(value)
}
