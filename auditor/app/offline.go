package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// What is wrong has been printed.
var (
	errDamaged  = errors.New("the audit log is not as it was signed")
	errUnproved = errors.New("the audit log has events without their source's signature")
)

// offline is a log as the subcommands read it: without a lock, while auditors may
// run. It is in a file, or in a database.
type offline struct {
	path  string // what to call it
	url   string // of the database, "" for a file
	store tree.Store
	close func() error
	keys  []note.Verifier
}

// offlineFlags are those of each subcommand that checks signatures.
type offlineFlags struct {
	*flag.FlagSet
	keys  []string
	usage string
}

func newOfflineFlags(name, usage string) *offlineFlags {
	f := &offlineFlags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), usage: usage}
	f.SetOutput(io.Discard) // the caller prints the mistake
	f.Func("key", "", func(s string) error { f.keys = append(f.keys, s); return nil })
	return f
}

// parse reads flags and arguments in any order, so that a flag may follow a path.
func (f *offlineFlags) parse(args []string, least, most int) ([]string, error) {
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			return nil, process.Usagef("%v; want %s %s", err, f.Name(), f.usage)
		}
		if args = f.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) < least || len(rest) > most {
		return nil, process.Usagef("want %s %s", f.Name(), f.usage)
	}
	return rest, nil
}

// open parses the arguments of a subcommand that reads a log, and opens the log: its
// path may follow the first arguments, which are returned.
func (f *offlineFlags) open(ctx context.Context, lookup env.Lookup, args []string, first int) ([]string, *offline, error) {
	rest, err := f.parse(args, first, first+1)
	if err != nil {
		return nil, nil, err
	}
	o, err := openOffline(ctx, lookup, optional(rest, first), f.keys)
	return rest[:first], o, err
}

// openOffline opens the log at path, or the one of AUDIT_LOG_PATH or AUDIT_DATABASE_URL.
func openOffline(ctx context.Context, lookup env.Lookup, path string, keys []string) (*offline, error) {
	o := &offline{path: path}
	if path == "" {
		r := env.NewReader(lookup)
		if o.path, o.url = place(r); r.Err() != nil {
			return nil, r.Err()
		}
	}
	var err error
	if o.keys, err = verifiers(lookup, o.path, keys); err != nil {
		return nil, err
	}
	if o.url != "" {
		tiles, err := pgledger.OpenTiles(ctx, database(o.url))
		if err != nil {
			return nil, err
		}
		o.path, o.store, o.close = "database", readOnly{tiles}, tiles.Close
		return o, nil
	}
	folder, err := tree.OpenFolder(filepath.Dir(o.path))
	if err != nil {
		return nil, err
	}
	o.store, o.close = folder, folder.Close
	return o, nil
}

// Close releases the folder or the connection.
func (o *offline) Close() error { return o.close() }

// readOnly is a store without its writing half.
type readOnly struct{ *pgledger.Tiles }

func (readOnly) WriteTile(context.Context, string, []byte) error { return errReader }
func (readOnly) WriteCheckpoint(context.Context, []byte) error   { return errReader }

// scan reads all complete lines, and hashes and parses them if asked.
func (o *offline) scan(ctx context.Context, parse bool, yield func(*ledger.Block) error) (torn int64, err error) {
	switch {
	case o.url != "":
		return 0, o.scanDatabase(ctx, yield)
	case parse:
		return ledger.Walk(ctx, o.path, yield)
	}
	return ledger.Scan(ctx, o.path, yield)
}

func (o *offline) scanDatabase(ctx context.Context, yield func(*ledger.Block) error) error {
	const enough = 1 << 20
	var lines []byte
	first, offset := int64(1), int64(0)
	flush := func() error {
		b := ledger.NewBlock(first, o.path, offset, lines)
		first, offset, lines = first+int64(b.Count), offset+int64(len(lines)), nil
		return yield(b)
	}
	_, err := pgledger.Lines(ctx, database(o.url), 0, func(_ int64, line []byte) error {
		lines = append(append(lines, line...), '\n')
		if len(lines) < enough {
			return nil
		}
		return flush()
	})
	if err == nil && len(lines) > 0 {
		err = flush()
	}
	return err
}

// verifiers are the keys of the log: those of --key, each a verifier key or a file
// with one on each line, or those of its signing keys.
func verifiers(lookup env.Lookup, path string, keys []string) ([]note.Verifier, error) {
	if len(keys) == 0 {
		signing, err := readKeys(lookup, path)
		if err != nil {
			return nil, err
		}
		return signing.Verifiers, nil
	}
	var all []note.Verifier
	for _, key := range keys {
		if content, err := os.ReadFile(key); err == nil {
			key = string(content)
		}
		for text := range strings.FieldsSeq(key) {
			v, err := note.NewVerifier(text)
			if err != nil {
				return nil, process.Usagef("--key: %v; want a verifier key as `auditor key` prints it, or a file with such keys", err)
			}
			all = append(all, v)
		}
	}
	return all, nil
}

// keyPath is where the signing key of a log is: AUDIT_SIGNING_KEY_FILE, or beside the log.
func keyPath(lookup env.Lookup, path string) string {
	return env.NewReader(lookup).String(signingKeyFile, path+keySuffix)
}

func readKeys(lookup env.Lookup, path string) (*tree.Keys, error) {
	name := keyPath(lookup, path)
	if name == keySuffix { // a database has no place beside it
		return nil, process.Usagef("give the verifier key with --key, or set %s", signingKeyFile)
	}
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, process.Usagef("no signing key at %s; give the verifier key with --key, or set %s", name, signingKeyFile)
	}
	if err != nil {
		return nil, err
	}
	keys, err := tree.ParseKeys(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// checkpoint reads the signed checkpoint beside the log, or the one in a file.
func (o *offline) checkpoint(ctx context.Context, file string) ([]byte, tree.Checkpoint, error) {
	name := "checkpoint"
	if o.url == "" {
		name = filepath.Join(filepath.Dir(o.path), name)
	}
	var signed []byte
	var err error
	if file != "" {
		name = file
		signed, err = os.ReadFile(file)
	} else {
		signed, err = o.store.Read(ctx, "checkpoint")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, tree.Checkpoint{}, fmt.Errorf("there is no checkpoint %s: nothing of this log was signed, or it was removed", name)
	}
	if err != nil {
		return nil, tree.Checkpoint{}, err
	}
	c, err := tree.OpenCheckpoint(signed, o.keys...)
	if err != nil {
		return nil, tree.Checkpoint{}, fmt.Errorf("%s: %w", name, err)
	}
	return signed, c, nil
}

// where names the place of a line, counted from 1, for a person who opens the file.
func (o *offline) where(ctx context.Context, line int64) string {
	found := ""
	stop := errors.New("found")
	_, err := o.scan(ctx, false, func(b *ledger.Block) error {
		if line < b.First || line >= b.First+int64(b.Count) {
			return nil
		}
		b.Each(func(i int, _ []byte, at int64) bool {
			found = fmt.Sprintf("%s: line %d (byte %d)", b.File, line, at)
			return b.First+int64(i) < line
		})
		return stop
	})
	if !errors.Is(err, stop) {
		return fmt.Sprintf("%s: line %d", o.path, line)
	}
	return found
}

// progress says every few seconds how far a long reading is.
type progress struct {
	to    io.Writer
	what  string
	total int64
	said  time.Time
	bytes int64
}

func newProgress(to io.Writer, what string, o *offline) *progress {
	p := &progress{to: to, what: what, said: time.Now()}
	files, err := ledger.Files(o.path)
	if err != nil || o.url != "" {
		return p // the reading will say what is wrong
	}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			p.total += info.Size()
		}
	}
	return p
}

func (p *progress) add(b *ledger.Block) {
	p.bytes += int64(len(b.Lines))
	if time.Since(p.said) < 2*time.Second {
		return
	}
	p.said = time.Now()
	of := ""
	if p.total > 0 {
		of = fmt.Sprintf(" of %d", p.total>>20)
	}
	fmt.Fprintf(p.to, "%s: %d lines, %d%s MiB\n", p.what, b.First-1+int64(b.Count), p.bytes>>20, of)
}
