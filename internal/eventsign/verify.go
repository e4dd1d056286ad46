package eventsign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/secretfile"
)

// Keys are the public keys of producers: by source, then by key id. Events of other
// sources are nobody's word and pass.
type Keys map[string]map[string]ed25519.PublicKey

// ParseKeys reads one "source ed25519:KEY" a line, several of a source during a
// rotation. Empty lines and those that begin with # say nothing.
func ParseKeys(content []byte) (Keys, error) {
	keys := Keys{}
	for number, line := range bytes.Split(content, []byte("\n")) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: want a source and a key, such as task-api ed25519:KEY", number+1)
		}
		encoded, ok := strings.CutPrefix(fields[1], scheme)
		key, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if !ok || err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("line %d: the key is not ed25519: and base64 of 32 bytes; taskapi key PATH prints the line", number+1)
		}
		source := fields[0]
		if keys[source] == nil {
			keys[source] = map[string]ed25519.PublicKey{}
		}
		keys[source][keyID(key)] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("has no keys; taskapi key PATH prints the line")
	}
	return keys, nil
}

// Verify reports whether e is the word of its producer: nil, also when the source
// has no keys, or an *Error.
func (k Keys) Verify(e event.Event) error {
	known, ok := k[e.Source()]
	if !ok {
		return nil
	}
	text, ok := event.Attribute(e, Attribute)
	if !ok {
		return missing()
	}
	return check(known, text, func() []byte { return Message(e) })
}

func missing() error { return refuse(Missing, "is missing") }

func check(known map[string]ed25519.PublicKey, text string, message func() []byte) error {
	id, signature, ok := parseSignature(text)
	if !ok {
		return refuse(Malformed, "is not ed25519:, a key id, a colon and a signature in base64")
	}
	key, ok := known[id]
	if !ok {
		return refuse(UnknownKey, "was made with a key that the event's source does not have")
	}
	if !ed25519.Verify(key, message(), signature) {
		return refuse(Wrong, "is not that of this event: it was changed, or the signature is another one's")
	}
	return nil
}

// Verifier has the keys of a file, which is read again when it changes. It is safe
// for concurrent use.
type Verifier struct {
	file *secretfile.File[Keys]
}

// OpenVerifier reads the keys at path.
func OpenVerifier(path string, log *slog.Logger) (*Verifier, error) {
	file, err := secretfile.OpenPublic(path, ParseKeys, log)
	if err != nil {
		return nil, err
	}
	return &Verifier{file}, nil
}

// CheckKeys reports what is wrong with a file for OpenVerifier.
func CheckKeys(path string) error { return secretfile.Check(path, ParseKeys) }

// Err reports why there are no keys now.
func (v *Verifier) Err() error { return v.file.Err() }

// Verify is Keys.Verify with the keys of the moment. Without any it refuses every
// event: which sources sign is not known then.
func (v *Verifier) Verify(e event.Event) error {
	keys, err := v.file.Load()
	if err != nil {
		return refuse(NoKeys, "cannot be verified: the file of keys cannot be used now")
	}
	return keys.Verify(e)
}
