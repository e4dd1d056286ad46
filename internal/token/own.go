package token

import (
	"errors"
	"log/slog"
	"strings"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// Own is the token that a program presents to another. Its file holds one line,
// which is read again when it changes. How long it is, is the other's affair.
type Own struct {
	file *secretfile.File[string]
}

// OpenOwn reads the file at path.
func OpenOwn(path string, log *slog.Logger) (*Own, error) {
	file, err := secretfile.Open(path, parseOwn, log)
	if err != nil {
		return nil, err
	}
	return &Own{file}, nil
}

// CheckOwn reports what is wrong with a file for OpenOwn.
func CheckOwn(path string) error { return secretfile.Check(path, parseOwn) }

// Get returns the token, or why there is none now: a request without it would
// only be refused.
func (o *Own) Get() (string, error) { return o.file.Load() }

// Err reports why there is no token now.
func (o *Own) Err() error { return o.file.Err() }

func parseOwn(content []byte) (string, error) {
	token := strings.TrimSpace(string(content))
	if !printable(token) {
		return "", errors.New("want one token, without a name and without spaces")
	}
	return token, nil
}
