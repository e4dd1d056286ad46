package rest

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// recheck bounds how often the file is looked at, and so how long a token
// that was taken out is still accepted.
const recheck = time.Second

// Tokens are the callers that are let in, from a file with one "name token"
// per line. The file is read again when it changes; a file that cannot be
// understood leaves the tokens as they were.
type Tokens struct {
	path string
	log  *slog.Logger

	mu      sync.RWMutex
	known   []known
	seen    os.FileInfo // of the file that known came from, or that was refused
	checked time.Time
}

// known holds a token by its digest: digests have one length, so comparing
// them tells nothing about the token's.
type known struct {
	name   string
	digest [sha256.Size]byte
}

// OpenTokens reads the file at path for the first time.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, log: log}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if t.known, err = readTokens(path); err != nil {
		return nil, err
	}
	t.seen, t.checked = info, time.Now()
	return t, nil
}

// Name is whose token this is. All known tokens are compared, each in
// constant time, so that the answer's time does not tell how near it was.
func (t *Tokens) Name(token string) (string, bool) {
	digest := sha256.Sum256([]byte(token))
	name, found := "", 0
	for _, k := range t.current() {
		same := subtle.ConstantTimeCompare(k.digest[:], digest[:])
		if same == 1 {
			name = k.name
		}
		found |= same
	}
	return name, found == 1 && token != ""
}

func (t *Tokens) current() []known {
	t.mu.RLock()
	list, due := t.known, time.Since(t.checked) >= recheck
	t.mu.RUnlock()
	if !due {
		return list
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.checked) >= recheck {
		t.checked = time.Now()
		t.reload()
	}
	return t.known
}

// reload runs under the lock.
func (t *Tokens) reload() {
	info, err := os.Stat(t.path)
	if err != nil {
		if t.seen != nil {
			t.log.Warn("the file of API tokens is gone; the tokens read before stay in force", "err", err)
		}
		t.seen = nil
		return
	}
	if t.seen != nil && os.SameFile(info, t.seen) && info.ModTime().Equal(t.seen.ModTime()) && info.Size() == t.seen.Size() {
		return
	}
	t.seen = info
	list, err := readTokens(t.path)
	if err != nil {
		t.log.Warn("the file of API tokens is refused; the tokens read before stay in force", "err", err)
		return
	}
	t.known = list
	t.log.Info("API tokens were read again", "tokens", len(list))
}

// readTokens never puts a token into an error: only the number of its line.
func readTokens(path string) ([]known, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
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
			return nil, fmt.Errorf("%s, line %d: want a name of letters, digits and . _ - @, a blank and a token", path, n)
		}
		k := known{name: fields[0], digest: sha256.Sum256([]byte(fields[1]))}
		if other, taken := owner[k.digest]; taken && other != k.name {
			return nil, fmt.Errorf("%s, line %d: %s and %s share a token, so changes could not be told apart", path, n, other, k.name)
		}
		owner[k.digest] = k.name
		list = append(list, k)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no token, so nobody could call the API", path)
	}
	return list, nil
}

func isName(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	})
}
