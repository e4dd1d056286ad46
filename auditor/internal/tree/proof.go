package tree

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const proofHeader = "c2sp.org/tlog-proof@v1"

// A Proof shows that a line is in the log: C2SP tlog-proof.
type Proof struct {
	Index      int64 // of the leaf: the number of the line, less one
	Hashes     tlog.RecordProof
	Checkpoint []byte // signed
}

// Prove proves that the tree of a checkpoint has the line of that number.
func Prove(ctx context.Context, s Store, signed []byte, c Checkpoint, line int64) (Proof, error) {
	if line < 1 || line > c.N {
		return Proof{}, fmt.Errorf("line %d: the checkpoint covers lines 1 to %d", line, c.N)
	}
	hashes, err := tlog.ProveRecord(c.N, line-1, hashes(ctx, s, c.Tree))
	if err != nil {
		return Proof{}, fmt.Errorf("prove line %d: %w", line, err)
	}
	return Proof{Index: line - 1, Hashes: hashes, Checkpoint: signed}, nil
}

// String is the proof's text.
func (p Proof) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nindex %d\n", proofHeader, p.Index)
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	return b.String()
}

// ParseProof reads the text of a proof; it proves nothing yet. Extra data is
// ignored, as nothing vouches for it.
func ParseProof(text string) (Proof, error) {
	malformed := func(what string) (Proof, error) {
		return Proof{}, errors.New("malformed proof: " + what)
	}
	head, signed, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || lines[0] != proofHeader {
		return malformed("the first line is not " + proofHeader)
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if _, err := base64.StdEncoding.DecodeString(lines[0][len("extra "):]); err != nil {
			return malformed("the extra data is not base64")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || len(lines) > 1+63 {
		return malformed("want one line with the index and at most 63 hashes")
	}
	digits, _ := strings.CutPrefix(lines[0], "index ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || lines[0] != fmt.Sprintf("index %d", n) {
		return malformed("no index")
	}
	p := Proof{Index: n, Checkpoint: []byte(signed)}
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return malformed("a hash is not base64 of 32 bytes")
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

// Verify checks the proof for a line, with its line feed, and returns the
// checkpoint that covers it.
func (p Proof) Verify(line []byte, keys ...note.Verifier) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, keys...)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index >= c.N {
		return Checkpoint{}, fmt.Errorf("the proof is for line %d, its checkpoint covers %d", p.Index+1, c.N)
	}
	if err := tlog.CheckRecord(p.Hashes, c.N, c.Hash, p.Index, MerkleLeaf(Leaf(line))); err != nil {
		return Checkpoint{}, fmt.Errorf("this is not line %d of the log: the proof does not lead from it to the root that was signed", p.Index+1)
	}
	return c, nil
}
