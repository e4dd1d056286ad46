package sink

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/secretfile"
)

// Tolerance is how far a signature's time may be from the sink's clock. It
// limits how long a captured request can be replayed.
const Tolerance = 5 * time.Minute

const secretPrefix = "whsec_"

// Secrets are the keys that may sign a post, as Standard Webhooks has it: any of
// them will do, so that in a rotation the two sides need not change at once.
type Secrets struct {
	file *secretfile.File[[][]byte]
}

// OpenSecrets reads the file at path: one secret a line, whsec_ and base64.
// Blank lines and lines that begin with # are ignored. The file is read again
// when it changes.
func OpenSecrets(path string, log *slog.Logger) (*Secrets, error) {
	file, err := secretfile.Open(path, parseSecrets, log)
	if err != nil {
		return nil, err
	}
	return &Secrets{file}, nil
}

// CheckSecrets reports why the file at path holds no secrets, so that a wrong
// setting is found before a port is opened.
func CheckSecrets(path string) error { return secretfile.Check(path, parseSecrets) }

// parseSecrets repeats nothing of the file in its errors.
func parseSecrets(content []byte) ([][]byte, error) {
	var keys [][]byte
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		encoded, ok := strings.CutPrefix(line, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < 24 || len(key) > 64 {
			return nil, fmt.Errorf("line %d: want whsec_ and the base64 of 24 to 64 bytes", n)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("holds no secret; want one whsec_... a line")
	}
	return keys, nil
}

// Sign is the webhook-signature of a body under one key.
func Sign(key []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Guard passes only signed posts on to next, an event Handler. A refusal is 401,
// which blames the sender's settings and not the event. With nil secrets every
// request passes.
func Guard(s *Secrets, next http.Handler) http.Handler {
	if s == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		body, err := read(w, r)
		if err != nil {
			httpd.WriteProblem(w, refusal(err))
			return
		}
		if err := s.check(r.Header, body); err != nil {
			w.Header().Set("WWW-Authenticate", "Webhook-Signature")
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnauthorized, Detail: err.Error()})
			return
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// check reports what is wrong with the signature of a request.
func (s *Secrets) check(h http.Header, body []byte) error {
	// The signature covers only the body. Attributes in headers could be changed
	// on the way unnoticed.
	for name := range h {
		if strings.HasPrefix(strings.ToLower(name), "ce-") {
			return errors.New("a signature does not cover the attributes of the binary form; send the structured form")
		}
	}
	id, stamp := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	if id == "" || stamp == "" || h.Get("Webhook-Signature") == "" {
		return errors.New("the headers webhook-id, webhook-timestamp and webhook-signature are required")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("webhook-timestamp is not a number of seconds")
	}
	at := time.Unix(seconds, 0)
	if age := time.Since(at); age > Tolerance || age < -Tolerance {
		return fmt.Errorf("webhook-timestamp is more than %v from this sink's clock", Tolerance)
	}
	for _, key := range s.file.Get() {
		want := []byte(Sign(key, id, at, body))
		for _, given := range strings.Fields(h.Get("Webhook-Signature")) {
			if hmac.Equal(want, []byte(given)) {
				return nil
			}
		}
	}
	return errors.New("webhook-signature does not match this body under any known secret")
}
