package rest

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/taskwire/taskwire/internal/secretfile"
)

// Tokens are the callers that may use the API, from a file with one "name
// token" a line. The file is read again when it changes.
type Tokens struct {
	file *secretfile.File[[]known]
}

// known keeps only the digest of a token: digests have one length, so comparing
// them reveals nothing about the token's.
type known struct {
	name   string
	digest [sha256.Size]byte
}

// OpenTokens reads the file at path.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	file, err := secretfile.Open(path, parseTokens, log)
	if err != nil {
		return nil, err
	}
	return &Tokens{file}, nil
}

// Name returns the name of the token's owner. It compares all known tokens, each
// in constant time, so that the time it takes reveals nothing about them.
func (t *Tokens) Name(token string) (string, bool) {
	digest := sha256.Sum256([]byte(token))
	name, found := "", 0
	for _, k := range t.file.Get() {
		same := subtle.ConstantTimeCompare(k.digest[:], digest[:])
		if same == 1 {
			name = k.name
		}
		found |= same
	}
	return name, found == 1 && token != ""
}

// parseTokens repeats no token in its errors, only names and the number of a line.
func parseTokens(content []byte) ([]known, error) {
	var list []known
	owner := map[[sha256.Size]byte]string{}
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 || !isName(fields[0]) || !printable(fields[1], 4096) {
			return nil, fmt.Errorf("line %d: want a name of letters, digits and . _ - @, a space and a token", n)
		}
		k := known{name: fields[0], digest: sha256.Sum256([]byte(fields[1]))}
		if other, taken := owner[k.digest]; taken && other != k.name {
			return nil, fmt.Errorf("line %d: %s and %s share a token, so the audit log could not tell who made a change", n, other, k.name)
		}
		owner[k.digest] = k.name
		list = append(list, k)
	}
	if len(list) == 0 {
		return nil, errors.New("holds no token, so nobody could call the API")
	}
	return list, nil
}

func isName(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	})
}
