package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// Prove is the subcommand that prints the proof of an entry.
func Prove() process.Sub {
	return process.Sub{Name: "prove", Usage: "[--key VKEY]... ID|SEQ [PATH]", Run: runProve}
}

func runProve(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := newOfflineFlags("prove", Prove().Usage)
	id, o, err := flags.open(ctx, lookup, args, 1)
	if err != nil {
		return err
	}
	defer o.Close()
	signed, c, err := o.checkpoint(ctx, "")
	if err != nil {
		return err
	}
	seq, line, err := o.find(ctx, id[0], stderr)
	if err != nil {
		return err
	}
	proof, err := o.prove(ctx, signed, c, seq, line)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, proof.String())
	return err
}

// prove makes the proof of a line and checks it: the line may have been altered.
func (o *offline) prove(ctx context.Context, signed []byte, c tree.Checkpoint, seq int64, line []byte) (tree.Proof, error) {
	if seq > c.N {
		return tree.Proof{}, fmt.Errorf("line %d is not covered by the checkpoint yet, which covers %d; the auditor signs a new one within a second", seq, c.N)
	}
	proof, err := tree.Prove(ctx, o.store, signed, c, seq)
	if err != nil {
		return tree.Proof{}, fmt.Errorf("%w; `auditor verify` says which tile is damaged, and a start of the auditor makes it again", err)
	}
	if _, err := proof.Verify(line, o.keys...); err != nil {
		return tree.Proof{}, fmt.Errorf("%s: %w", o.where(ctx, seq), err)
	}
	return proof, nil
}

// find looks for the entry of a number or an event id.
func (o *offline) find(ctx context.Context, what string, stderr io.Writer) (seq int64, line []byte, err error) {
	number, err := strconv.ParseInt(what, 10, 64)
	byNumber := err == nil
	mark := []byte(`,"event_id":"` + what + `"`)
	if strings.ContainsFunc(what, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		mark = []byte(`,"event_id":"`) // escaped in a line
	}
	progress := newProgress(stderr, "prove", o)
	var found []int64
	_, err = o.scan(ctx, false, func(b *ledger.Block) error {
		progress.add(b)
		if byNumber && (number < b.First || number >= b.First+int64(b.Count)) || !byNumber && !bytes.Contains(b.Lines, mark) {
			return nil
		}
		b.Each(func(i int, text []byte, _ int64) bool {
			n := b.First + int64(i)
			if byNumber && n == number || !byNumber && hasID(text, what) {
				found, line = append(found, n), bytes.Clone(text)
			}
			return true
		})
		return nil
	})
	switch {
	case err != nil:
		return 0, nil, err
	case len(found) == 0:
		return 0, nil, fmt.Errorf("%s has no entry %s", o.path, what)
	case len(found) > 1:
		return 0, nil, fmt.Errorf("the entries %v have the id %s, from different sources; ask for one by its number", found, what)
	}
	return found[0], line, nil
}

func hasID(line []byte, id string) bool {
	e, _, _, err := ledger.ParseHead(bytes.TrimSuffix(line, []byte("\n")))
	return err == nil && e.ID == id
}

// VerifyProof is the subcommand that checks a proof, without the log.
func VerifyProof() process.Sub {
	return process.Sub{Name: "verify-proof", Usage: "--key VKEY [--witnesses FILE] PROOF [LINE]", Run: runVerifyProof}
}

func runVerifyProof(_ context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
	flags := newOfflineFlags("verify-proof", VerifyProof().Usage)
	witnesses := flags.String("witnesses", "", "")
	rest, err := flags.parse(args, 1, 2)
	if err != nil {
		return err
	}
	keys, err := verifiers(lookup, env.NewReader(lookup).String("AUDIT_LOG_PATH", defaultPath), flags.keys)
	if err != nil {
		return err
	}
	var cosigners []note.Verifier
	if *witnesses != "" {
		content, err := os.ReadFile(*witnesses)
		if err != nil {
			return err
		}
		list, err := tree.ParseWitnesses(content)
		if err != nil {
			return process.Usagef("%s: %v", *witnesses, err)
		}
		for _, w := range list {
			cosigners = append(cosigners, w.Verifier())
		}
	}
	proof, err := os.ReadFile(rest[0])
	if err != nil {
		return err
	}
	if bytes.HasPrefix(proof, []byte("{")) && len(rest) == 1 {
		return verifyExport(proof, keys, stdout)
	}
	line, err := readLine(optional(rest, 1))
	if err != nil {
		return err
	}
	p, err := tree.ParseProof(string(proof))
	if err != nil {
		return err
	}
	c, err := p.Verify(line, keys...)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "ok: line %d of the %d lines that %s signed%s\n", p.Index+1, c.N, c.Origin, cosigned(p.Checkpoint, cosigners))
	return nil
}

// cosigned names the witnesses that signed the checkpoint.
func cosigned(signed []byte, by []note.Verifier) string {
	n, err := note.Open(signed, note.VerifierList(by...))
	if len(by) == 0 {
		return ""
	}
	if err != nil {
		return "; no witness of the list has cosigned it"
	}
	var names []string
	for _, s := range n.Sigs {
		names = append(names, s.Name)
	}
	return "; cosigned by " + strings.Join(names, ", ")
}

// readLine reads one line from the file, from stdin without one.
func readLine(file string) ([]byte, error) {
	in := os.Stdin
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	line, err := bufio.NewReader(in).ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) > 0 {
		return append(line, '\n'), nil
	}
	return line, err
}

// exported is one line of an export. Line has no line feed.
type exported struct {
	Seq   int64  `json:"seq"`
	Line  string `json:"line"`
	Proof string `json:"proof"`
}

func verifyExport(content []byte, keys []note.Verifier, stdout io.Writer) error {
	in := json.NewDecoder(bytes.NewReader(content))
	for n := 1; ; n++ {
		var e exported
		if err := in.Decode(&e); errors.Is(err, io.EOF) {
			fmt.Fprintf(stdout, "ok: %d lines with their proofs\n", n-1)
			return nil
		} else if err != nil {
			return fmt.Errorf("line %d of the export: %w", n, err)
		}
		p, err := tree.ParseProof(e.Proof)
		if err == nil && p.Index+1 != e.Seq {
			err = fmt.Errorf("the proof is for entry %d, not %d", p.Index+1, e.Seq)
		}
		if err == nil {
			_, err = p.Verify([]byte(e.Line+"\n"), keys...)
		}
		if err != nil {
			return fmt.Errorf("line %d of the export: %w", n, err)
		}
	}
}

// Export is the subcommand that prints lines of the log with their proofs.
func Export() process.Sub {
	return process.Sub{Name: "export", Usage: "[--from SEQ] [--to SEQ] [--key VKEY]... [PATH]", Run: runExport}
}

func runExport(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := newOfflineFlags("export", Export().Usage)
	from := flags.Int64("from", 1, "")
	to := flags.Int64("to", 0, "")
	_, o, err := flags.open(ctx, lookup, args, 0)
	if err != nil {
		return err
	}
	defer o.Close()
	signed, c, err := o.checkpoint(ctx, "")
	if err != nil {
		return err
	}
	if *to == 0 {
		*to = c.N
	}
	if *from < 1 || *to < *from-1 || *to > c.N {
		return process.Usagef("--from %d --to %d: the checkpoint covers entries 1 to %d", *from, *to, c.N)
	}
	out := bufio.NewWriter(stdout)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	progress := newProgress(stderr, "export", o)
	_, err = o.scan(ctx, false, func(b *ledger.Block) (err error) {
		progress.add(b)
		b.Each(func(i int, line []byte, _ int64) bool {
			seq := b.First + int64(i)
			if seq < *from || seq > *to {
				return seq < *from
			}
			var p tree.Proof
			if p, err = o.prove(ctx, signed, c, seq, line); err == nil {
				err = lines.Encode(exported{seq, string(line[:len(line)-1]), p.String()})
			}
			return err == nil
		})
		if err == nil && b.First > *to {
			err = errEnough
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return errors.Join(err, out.Flush())
	}
	return out.Flush()
}

var errEnough = errors.New("everything asked for was read")
