package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// Cat is the subcommand that prints the log.
func Cat() process.Sub {
	return process.Sub{Name: "cat", Usage: "[PATH]", Run: func(ctx context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
		r := env.NewReader(lookup)
		path, url := place(r)
		switch {
		case len(args) > 1:
			return process.Usagef("cat takes at most one path")
		case len(args) == 1:
			return cat(ctx, args[0], stdout)
		case r.Err() != nil:
			return process.Usagef("%v", r.Err())
		case url != "":
			return catDatabase(ctx, url, stdout)
		}
		return cat(ctx, path, stdout)
	}}
}

// cat prints complete lines only: bytes after the last line feed are being
// written, or were never acknowledged.
func cat(ctx context.Context, path string, w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<16)
	show := func(line []byte) []byte { return line }
	if isTerminal(w) {
		show = visible
	}
	_, err := ledger.Scan(ctx, path, func(b *ledger.Block) error {
		_, err := out.Write(show(b.Lines))
		return err
	})
	return errors.Join(err, out.Flush())
}

// catDatabase prints the entries that are committed.
func catDatabase(ctx context.Context, url string, w io.Writer) error {
	show := func(line []byte) []byte { return line }
	if isTerminal(w) {
		show = visible
	}
	out := bufio.NewWriterSize(w, 1<<16)
	_, err := pgledger.Lines(ctx, database(url), 0, func(_ int64, line []byte) error {
		_, _ = out.Write(show(line)) // the next write returns the first error
		return out.WriteByte('\n')
	})
	return errors.Join(err, out.Flush())
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	return term.IsTerminal(int(f.Fd())) // /dev/null is a character device too, and no terminal
}

// visible escapes control characters for a terminal. Data is stored as received,
// and JSON allows DEL and the C1 controls inside strings; escaped they are the
// same JSON.
func visible(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRune(line[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			out = fmt.Appendf(out, `\x%02x`, line[i]) // not an audit log, but still safe to print
		case r < 0x20 && r != '\n' && r != '\t', r >= 0x7f && r < 0xa0:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, line[i:i+n]...)
		}
		i += n
	}
	return out
}
