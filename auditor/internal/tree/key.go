package tree

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	algEd25519     = 1 // of a log
	algCosignature = 4 // of a witness: Ed25519 with a time
)

// Keys sign the checkpoints of a log and recognize its older ones.
type Keys struct {
	Signer    note.Signer
	Verifiers []note.Verifier // of the signer, and of the keys before it
	VKeys     []string        // the verifier keys as text, in the same order
}

// Origin is the name of the log, which is that of its keys.
func (k *Keys) Origin() string { return k.Signer.Name() }

// NewKey makes a signing key in the format of a signed note. With an empty origin
// the log is named after the key: taskwire/audit/ and 8 bytes of its hash.
func NewKey(origin string) (skey string, err error) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	if origin == "" {
		sum := sha256.Sum256(pub)
		origin = fmt.Sprintf("taskwire/audit/%x", sum[:8])
	}
	skey, _, err = note.GenerateKey(bytes.NewReader(private.Seed()), origin)
	if err == nil {
		_, err = ParseKeys([]byte(skey))
	}
	if err != nil {
		return "", fmt.Errorf("origin %q: want a name without spaces and plus signs, such as audit.example.com/tasks", origin)
	}
	return skey, nil
}

// ParseKeys reads signing keys, PRIVATE+KEY+..., one on each line. The first one
// signs. The others are its predecessors: their checkpoints are still accepted.
// No error repeats a key.
func ParseKeys(content []byte) (*Keys, error) {
	k := &Keys{}
	for i, line := range strings.Split(string(content), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		signer, err := note.NewSigner(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is not a signing key; `auditor key --new` makes one", i+1)
		}
		vkey, err := verifierKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		verifier, err := note.NewVerifier(vkey)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if k.Signer == nil {
			k.Signer = signer
		}
		if signer.Name() != k.Signer.Name() {
			return nil, fmt.Errorf("line %d is the key of another log: %q, not %q", i+1, signer.Name(), k.Signer.Name())
		}
		k.Verifiers, k.VKeys = append(k.Verifiers, verifier), append(k.VKeys, vkey)
	}
	if k.Signer == nil {
		return nil, errors.New("holds no signing key; `auditor key --new` makes one")
	}
	return k, nil
}

// verifierKey is the public half of a signing key that note.NewSigner accepts:
// PRIVATE+KEY+<name>+<hash>+<algorithm and seed>.
func verifierKey(skey string) (string, error) {
	parts := strings.SplitN(skey, "+", 5)
	if len(parts) != 5 {
		return "", errors.New("malformed key")
	}
	seed, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("malformed key")
	}
	return note.NewEd25519VerifierKey(parts[2], ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
}
