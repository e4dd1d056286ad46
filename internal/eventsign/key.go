package eventsign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/secretfile"
)

// scheme begins each key and signature in text.
const scheme = "ed25519:"

// keyID names a public key: the first 8 bytes of its SHA-256.
func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// PublicText is a public key in a file of keys: ed25519: and base64 of its 32 bytes.
func PublicText(public ed25519.PublicKey) string {
	return scheme + base64.StdEncoding.EncodeToString(public)
}

// ParsePrivateKey reads a PKCS #8 private key in PEM, as openssl genpkey -algorithm
// ed25519 writes it.
func ParsePrivateKey(content []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("want a PEM block PRIVATE KEY; make one with taskapi key --new PATH")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one private key and nothing else")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("want an Ed25519 key in PKCS #8")
	}
	return private, nil
}

// MarshalPrivateKey is the other direction.
func MarshalPrivateKey(private ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Signer signs events with the key of a file, which is read again when it changes.
// It is safe for concurrent use.
type Signer struct {
	file *secretfile.File[ed25519.PrivateKey]
}

// OpenSigner reads the key at path.
func OpenSigner(path string, log *slog.Logger) (*Signer, error) {
	file, err := secretfile.Open(path, ParsePrivateKey, log)
	if err != nil {
		return nil, err
	}
	return &Signer{file}, nil
}

// CheckSigner reports what is wrong with a file for OpenSigner.
func CheckSigner(path string) error { return secretfile.Check(path, ParsePrivateKey) }

// Err reports why there is no key now.
func (s *Signer) Err() error { return s.file.Err() }

// Sign returns the structured form of an event with its signature. Without a key
// there is an error and no event: an unsigned one would be refused later.
func (s *Signer) Sign(body []byte) ([]byte, error) {
	private, err := s.file.Load()
	if err != nil {
		return nil, err
	}
	e, err := event.Parse(body)
	if err != nil {
		return nil, err
	}
	sign(&e, private)
	return event.Append(nil, e)
}

// sign sets the attribute of e.
func sign(e *event.Event, private ed25519.PrivateKey) {
	signature := ed25519.Sign(private, Message(*e))
	e.SetExtension(Attribute, scheme+keyID(private.Public().(ed25519.PublicKey))+":"+base64.StdEncoding.EncodeToString(signature))
}

// parseSignature reads the value of the attribute.
func parseSignature(text string) (id string, signature []byte, ok bool) {
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok {
		return "", nil, false
	}
	id, encoded, ok := strings.Cut(rest, ":")
	if !ok || len(id) != 16 {
		return "", nil, false
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(signature) != ed25519.SignatureSize || strings.ContainsAny(encoded, "\r\n") {
		return "", nil, false
	}
	return id, signature, true
}
