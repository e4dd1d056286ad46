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
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskwire/taskwire/internal/httpd"
)

// Tolerance is how far a signature's time may be from the sink's clock. It
// bounds how long a captured request can be sent again.
const Tolerance = 5 * time.Minute

const secretPrefix = "whsec_"

// Secrets are the keys that posts must be signed with, as Standard Webhooks
// says: any of them will do, so that a rotation needs no moment at which both sides change.
type Secrets struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu     sync.Mutex
	keys   [][]byte    // guarded by mu
	looked time.Time   // guarded by mu: when the file was last looked at
	seen   os.FileInfo // guarded by mu: what it was when keys were read
}

// OpenSecrets reads the file at path: one secret a line, whsec_ and base64.
// Blank lines and lines that begin with # are left out. The file is read again when it
// changes; a bad one leaves the old secrets in force and says so.
func OpenSecrets(path string, log *slog.Logger) (*Secrets, error) {
	s := &Secrets{path: path, log: log, now: time.Now}
	keys, info, err := readSecrets(path)
	if err != nil {
		return nil, err
	}
	s.keys, s.seen, s.looked = keys, info, s.now()
	return s, nil
}

// CheckSecrets says what keeps the file at path from holding secrets, so that a
// wrong setting is found before a port is opened.
func CheckSecrets(path string) error {
	_, _, err := readSecrets(path)
	return err
}

// readSecrets repeats nothing of the file in its errors.
func readSecrets(path string) ([][]byte, os.FileInfo, error) {
	info, err := os.Stat(path) // before the read: a change in between is seen the next time
	if err != nil {
		return nil, nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
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
			return nil, nil, fmt.Errorf("%s line %d: want whsec_ and the base64 of 24 to 64 bytes", path, n)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nil, fmt.Errorf("%s holds no secret", path)
	}
	return keys, info, nil
}

// current looks at the file at most once a second.
func (s *Secrets) current() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.looked) < time.Second {
		return s.keys
	}
	s.looked = now
	info, err := os.Stat(s.path)
	if err == nil && os.SameFile(info, s.seen) && info.ModTime().Equal(s.seen.ModTime()) && info.Size() == s.seen.Size() {
		return s.keys
	}
	keys, info, err := readSecrets(s.path)
	if err != nil {
		s.log.Error("the secrets could not be read again; the old ones stay in force: " + err.Error())
		return s.keys
	}
	s.keys, s.seen = keys, info
	s.log.Info("secrets read again", "secrets", len(keys))
	return s.keys
}

// Sign is the webhook-signature of a body under one key.
func Sign(key []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Guard lets only signed posts through to next, an event Handler. A refusal is
// 401, which blames the sender's settings and not the event. With nil secrets
// everything goes through.
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

// check says what is wrong with the signature of a request.
func (s *Secrets) check(h http.Header, body []byte) error {
	// The signature covers the body alone. Attributes in headers could be changed
	// on the way without anyone noticing.
	for name := range h {
		if strings.HasPrefix(strings.ToLower(name), "ce-") {
			return errors.New("the binary form leaves the attributes unsigned; send the structured form")
		}
	}
	id, stamp := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	if id == "" || stamp == "" || h.Get("Webhook-Signature") == "" {
		return errors.New("the headers webhook-id, webhook-timestamp and webhook-signature are needed")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("webhook-timestamp is not a number of seconds")
	}
	at := time.Unix(seconds, 0)
	if age := s.now().Sub(at); age > Tolerance || age < -Tolerance {
		return fmt.Errorf("webhook-timestamp is more than %v from this sink's clock", Tolerance)
	}
	for _, key := range s.current() {
		want := []byte(Sign(key, id, at, body))
		for _, given := range strings.Fields(h.Get("Webhook-Signature")) {
			if hmac.Equal(want, []byte(given)) {
				return nil
			}
		}
	}
	return errors.New("webhook-signature is not that of this body under a known secret")
}
