// Package token is bearer tokens: the lists of those that a service accepts, the
// one that it presents itself, and what becomes of requests without a good one.
package token

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

// Shortest is the least length of a token that is accepted: a shorter one could
// be found by trying.
const Shortest = 16

// List is the tokens that a service accepts, each with the name of its owner. The
// file is read again when it changes; while it cannot be used, no token is good.
type List struct {
	file *secretfile.File[[]known]
}

// known keeps only the digest of a token: digests have one length, so comparing
// them reveals nothing about the token's.
type known struct {
	name   string
	digest [sha256.Size]byte
}

// Open reads the file at path, one "name token" a line. A name may have several
// tokens, for a rotation. Blank lines and those that begin with # are ignored.
func Open(path string, log *slog.Logger) (*List, error) { return open(path, parse, log) }

// Check reports what is wrong with a file for Open.
func Check(path string) error { return secretfile.Check(path, parse) }

// OpenFor reads a file of tokens without names, one a line, all of which are
// name's. It may hold several, for a rotation.
func OpenFor(name, path string, log *slog.Logger) (*List, error) {
	return open(path, unnamed(name), log)
}

// CheckFor reports what is wrong with a file for OpenFor.
func CheckFor(name, path string) error { return secretfile.Check(path, unnamed(name)) }

func open(path string, parse func([]byte) ([]known, error), log *slog.Logger) (*List, error) {
	file, err := secretfile.Open(path, parse, log)
	if err != nil {
		return nil, err
	}
	return &List{file}, nil
}

// Err reports why no token is good now, nil when some are.
func (l *List) Err() error { return l.file.Err() }

// Name returns the name of the token's owner. It compares all known tokens, each
// in constant time, so that the time it takes reveals nothing about them.
func (l *List) Name(token string) (string, bool) {
	digest := sha256.Sum256([]byte(token))
	name, found := "", 0
	for _, k := range l.file.Get() {
		same := subtle.ConstantTimeCompare(k.digest[:], digest[:])
		if same == 1 {
			name = k.name
		}
		found |= same
	}
	return name, found == 1
}

// FromHeader returns the token of Authorization: Bearer, "" when there is none.
// Two such headers could be read differently on the way, so they count as none.
func FromHeader(h http.Header) string {
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

func parse(content []byte) ([]known, error) {
	return parseLines(content, func(fields []string) (name, token string, ok bool) {
		if len(fields) != 2 || !isName(fields[0]) {
			return "", "", false
		}
		return fields[0], fields[1], true
	}, "a name of letters, digits and . _ - @, a space and a token")
}

func unnamed(name string) func([]byte) ([]known, error) {
	return func(content []byte) ([]known, error) {
		return parseLines(content, func(fields []string) (_, token string, ok bool) {
			return name, fields[0], len(fields) == 1
		}, "one token of printable ASCII, without spaces")
	}
}

// parseLines repeats no token in its errors, only names and the number of a line.
func parseLines(content []byte, split func(fields []string) (name, token string, ok bool), want string) ([]known, error) {
	var list []known
	owner := map[[sha256.Size]byte]string{}
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		name, token, ok := split(fields)
		if !ok || !printable(token) {
			return nil, fmt.Errorf("line %d: want %s", n, want)
		}
		if len(token) < Shortest {
			whose := ""
			if len(fields) > 1 {
				whose = " of " + name
			}
			return nil, fmt.Errorf("line %d: the token%s has less than %d characters; openssl rand -hex 32 makes a good one", n, whose, Shortest)
		}
		k := known{name: name, digest: sha256.Sum256([]byte(token))}
		if other, taken := owner[k.digest]; taken && other != name {
			return nil, fmt.Errorf("line %d: %s and %s share a token, so nobody could tell who used it", n, other, name)
		}
		owner[k.digest] = name
		list = append(list, k)
	}
	if len(list) == 0 {
		return nil, errors.New("holds no token, so nobody has access")
	}
	return list, nil
}

func isName(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	})
}

func printable(s string) bool {
	return s != "" && len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r <= 0x20 || r > 0x7e })
}
