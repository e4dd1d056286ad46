package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// shortest is the least length of a token: a shorter one could be found by trying.
const shortest = 16

// Token is the bearer token of the API, from a file that is read again when it
// changes. The file has one a line, so that two are good during a rotation.
type Token struct {
	file *secretfile.File[[]digest]
}

// digest is of a token: digests have one length, so comparing them reveals
// nothing about the token's.
type digest [sha256.Size]byte

// OpenToken reads the file at path.
func OpenToken(path string, log *slog.Logger) (*Token, error) {
	file, err := secretfile.Open(path, parseTokens, log)
	if err != nil {
		return nil, err
	}
	return &Token{file}, nil
}

// CheckToken reports what is wrong with a file for OpenToken.
func CheckToken(path string) error { return secretfile.Check(path, parseTokens) }

// Err reports why no token is good now; nil when one is.
func (t *Token) Err() error { return t.file.Err() }

// Allows reports whether h carries a good token. While the file cannot be used
// none is: whoever empties or removes it means to revoke.
func (t *Token) Allows(h http.Header) bool {
	if t.Err() != nil {
		return false
	}
	have, found := digest(sha256.Sum256([]byte(bearer(h)))), 0
	for _, want := range t.file.Get() {
		found |= subtle.ConstantTimeCompare(have[:], want[:])
	}
	return found == 1
}

// bearer is the token of a request. Two Authorization headers could be read
// differently on the way, so they count as none.
func bearer(h http.Header) string {
	given := h["Authorization"]
	if len(given) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// parseTokens repeats no token in its errors.
func parseTokens(content []byte) ([]digest, error) {
	var all []digest
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		token := strings.TrimSpace(line)
		switch {
		case token == "" || strings.HasPrefix(token, "#"):
			continue
		case strings.ContainsFunc(token, func(r rune) bool { return r <= 0x20 || r > 0x7e }):
			return nil, fmt.Errorf("line %d: want one token of printable ASCII, without spaces", n)
		case len(token) < shortest:
			return nil, fmt.Errorf("line %d: the token has less than %d characters; openssl rand -hex 32 makes a good one", n, shortest)
		}
		all = append(all, sha256.Sum256([]byte(token)))
	}
	if len(all) == 0 {
		return nil, errors.New("holds no token, so nobody has access")
	}
	return all, nil
}
