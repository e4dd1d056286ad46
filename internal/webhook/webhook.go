// Package webhook signs posts and verifies their signatures, as Standard Webhooks
// 1.0 has it (https://www.standardwebhooks.com).
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// Tolerance is how far a signature's time may be from the receiver's clock. It
// limits how long a captured request can be replayed.
const Tolerance = 5 * time.Minute

const secretPrefix = "whsec_"

// Headers of a signed post, in canonical form.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// Secrets are the keys that sign posts. A sender signs with each of them and a
// receiver accepts any, so that in a rotation the two need not change at once.
// The file is read again when it changes; while it cannot be used there are none.
type Secrets struct {
	file *secretfile.File[[][]byte]
}

// Open reads the file at path: one secret a line, whsec_ and base64. Blank lines
// and lines that begin with # are ignored.
func Open(path string, log *slog.Logger) (*Secrets, error) {
	file, err := secretfile.Open(path, parse, log)
	if err != nil {
		return nil, err
	}
	return &Secrets{file}, nil
}

// Check reports why the file at path holds no secrets, so that a wrong setting is
// found before a port is opened.
func Check(path string) error { return secretfile.Check(path, parse) }

// Err reports why there are no secrets now.
func (s *Secrets) Err() error { return s.file.Err() }

// parse repeats nothing of the file in its errors.
func parse(content []byte) ([][]byte, error) {
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

// ID is the webhook-id of an event: the same for every attempt and every redelivery,
// since receivers use it to recognise duplicates. Neither part may contain a line feed.
func ID(source, id string) string {
	sum := sha256.Sum256([]byte(source + "\n" + id))
	return "msg_" + hex.EncodeToString(sum[:16])
}

// Sign sets the headers of an attempt to post body. With no secret it fails: an
// unsigned post would only be refused.
func (s *Secrets) Sign(h http.Header, id string, at time.Time, body []byte) error {
	keys, err := s.file.Load()
	if err != nil {
		return err
	}
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signatures[i] = sign(key, id, at, body)
	}
	h[HeaderID] = []string{id}
	h[HeaderTimestamp] = []string{strconv.FormatInt(at.Unix(), 10)}
	h[HeaderSignature] = []string{strings.Join(signatures, " ")}
	return nil
}

// sign is the signature of a body under one key.
func sign(key []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Signed reports whether a request claims to be signed.
func Signed(h http.Header) bool { return h.Get(HeaderSignature) != "" }

// Verify reports what is wrong with the signature of a request.
func (s *Secrets) Verify(h http.Header, body []byte) error {
	id, stamp := h.Get(HeaderID), h.Get(HeaderTimestamp)
	if id == "" || stamp == "" || !Signed(h) {
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
		want := []byte(sign(key, id, at, body))
		for _, given := range strings.Fields(h.Get(HeaderSignature)) {
			if hmac.Equal(want, []byte(given)) {
				return nil
			}
		}
	}
	return errors.New("webhook-signature does not match this body under any known secret")
}
