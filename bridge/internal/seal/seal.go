// Package seal shows whether a commit of a consumer group is the bridge's own.
//
// The map in a commit's metadata says which events are done, so whoever may
// commit for the group could make events vanish with it, or with the offset
// alone. A sealed commit carries an HMAC-SHA-256, under a key that only the
// bridge has, over the group, the topic, the partition, the offset and the map.
//
// What a seal cannot show is that a commit is missing, or that an older one was
// put back. Neither skips an event: the bridge then begins at the start of the
// topic, or at a point that it has passed before, and delivers again.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// version begins a sealed text; the seal in base64 and the map follow.
const version = "ts1"

// Size is what a seal adds to the metadata, in bytes.
const Size = len(version) + (sha256.Size*8+5)/6

// Place is what a commit is for. A seal of one place is wrong in any other.
type Place struct {
	Group, Topic string
	Partition    int
	Offset       int64
}

// Keys are the keys in force. The first seals, all open: in a rotation a new key
// goes first, and the old one is removed when every partition has committed.
type Keys [][]byte

// shortest is the least length of a key, that of its hash.
const shortest = 32

// Parse reads a file of keys, one a line: any printable text of at least 32
// characters without spaces, such as openssl rand -hex 32 prints. Blank lines
// and lines that begin with # are ignored. Its errors repeat no key.
func Parse(content []byte) (Keys, error) {
	var keys Keys
	n := 0
	for line := range bytes.Lines(content) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) < shortest || bytes.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("line %d: want a key of at least %d printable characters without spaces, such as openssl rand -hex 32 prints", n, shortest)
		}
		keys = append(keys, bytes.Clone(line))
	}
	if len(keys) == 0 {
		return nil, errors.New("holds no key; want one a line, such as openssl rand -hex 32 prints")
	}
	return keys, nil
}

// Seal returns metadata, which may be empty, with the seal of the first key.
func (k Keys) Seal(p Place, metadata string) string {
	return version + base64.RawStdEncoding.EncodeToString(mac(k[0], p, metadata)) + metadata
}

// Open returns the metadata that Seal was given. old says that its key is not
// the first one any more. The error says, for an operator, why the commit is
// not the bridge's own.
func (k Keys) Open(p Place, sealed string) (metadata string, old bool, err error) {
	text, ok := strings.CutPrefix(sealed, version)
	if !ok || len(sealed) < Size {
		return "", false, errors.New("the commit has no seal")
	}
	metadata = sealed[Size:]
	have, err := base64.RawStdEncoding.Strict().DecodeString(text[:Size-len(version)])
	if err != nil {
		return "", false, errors.New("the seal of the commit is damaged")
	}
	for i, key := range k {
		if hmac.Equal(have, mac(key, p, metadata)) {
			return metadata, i > 0, nil
		}
	}
	return "", false, errors.New("the seal of the commit is wrong: it was made for another commit, or with a key that is not in BRIDGE_STATE_KEY_FILE")
}

// mac writes the length of each text before it, so that no two places and maps
// are the same bytes.
func mac(key []byte, p Place, metadata string) []byte {
	var b []byte
	for _, text := range []string{"taskwire commit 1", p.Group, p.Topic} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	b = binary.AppendVarint(b, int64(p.Partition))
	b = binary.AppendVarint(b, p.Offset)
	h := hmac.New(sha256.New, key)
	h.Write(append(b, metadata...))
	return h.Sum(nil)
}
