package tree

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const checkpointPath = "checkpoint"

// A Checkpoint is the text of a C2SP tlog-checkpoint: which log, how many lines,
// and the root of the tree over them.
type Checkpoint struct {
	Origin string
	tlog.Tree
}

// String is the text that is signed.
func (c Checkpoint) String() string { return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.N, c.Hash) }

// ParseCheckpoint reads the text of a checkpoint. Extension lines are ignored.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	malformed := func(what string) (Checkpoint, error) {
		return Checkpoint{}, errors.New("malformed checkpoint: " + what)
	}
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return malformed("want three lines, each with its end")
	}
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			return malformed("an empty line")
		}
	}
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || n < 0 || lines[1] != strconv.FormatInt(n, 10) {
		return malformed("the second line is not the size of a tree")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || lines[2] != root.String() {
		return malformed("the third line is not a hash")
	}
	return Checkpoint{Origin: lines[0], Tree: tlog.Tree{N: n, Hash: root}}, nil
}

// Sign returns the checkpoint as a signed note.
func (c Checkpoint) Sign(by note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.String()}, by)
}

// OpenCheckpoint reads a signed checkpoint. One of the keys must have signed it,
// and must have the origin as its name.
func OpenCheckpoint(msg []byte, keys ...note.Verifier) (Checkpoint, error) {
	n, err := note.Open(msg, note.VerifierList(keys...))
	var other *note.UnverifiedNoteError
	if errors.As(err, &other) {
		return Checkpoint{}, &KeyError{Signed: signers(other.Note.UnverifiedSigs), Want: names(keys)}
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("checkpoint: of the log %q, but signed by %s", c.Origin, signers(n.Sigs))
}

// A KeyError is a checkpoint without a signature of a known key: the key was
// replaced, or it is the checkpoint of another log.
type KeyError struct{ Signed, Want string }

func (e *KeyError) Error() string {
	return fmt.Sprintf("the checkpoint is signed by %s, not by %s: the key was replaced, or it is the checkpoint of another log", e.Signed, e.Want)
}

func signers(list []note.Signature) string {
	var all []string
	for _, s := range list {
		all = append(all, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
	}
	return strings.Join(all, ", ")
}

func names(keys []note.Verifier) string {
	var all []string
	for _, k := range keys {
		all = append(all, fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()))
	}
	return strings.Join(all, " or ")
}
