package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/process"
)

// Migrate is the subcommand that moves the log from a file into PostgreSQL.
func Migrate() process.Sub {
	return process.Sub{Name: "migrate", Usage: "[PATH]", Run: func(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
		r := env.NewReader(lookup)
		path, url := r.String(pathKey, defaultPath), r.String(databaseKey, "")
		if len(args) > 1 {
			return process.Usagef("migrate takes at most one path")
		}
		if len(args) == 1 {
			path = args[0]
		}
		if err := postgres.Check(url); err != nil {
			return process.Usagef("%s: %v", databaseKey, err)
		}
		return migrate(ctx, path, url, stdout, stderr)
	}}
}

// migration copies the lines of the file into the database, in order, as they are.
//
//	the file is locked          no auditor appends to it
//	compare what is there       a migration that was interrupted goes on behind it
//	import, a batch at a time   entries, tasks and head in one transaction
//	compare the roots           of the file's lines, and of those read from the database
//	the checkpoint              what was signed stays signed: the next auditor
//	                            makes the tiles again and must come to its root
//
// The file stays as it is.
type migration struct {
	from   *ledger.Ledger
	to     *pgledger.Ledger
	edge   tree.Edge // of the file
	lines  [][]byte  // of the next batch
	bytes  int
	stderr io.Writer
	tick   rate.Sometimes
}

const (
	importLines = 1000
	importBytes = 4 << 20
)

func migrate(ctx context.Context, path, url string, stdout, stderr io.Writer) (err error) {
	m := &migration{stderr: stderr, tick: rate.Sometimes{Interval: 2 * time.Second}}
	if m.from, err = ledger.Open(ctx, ledger.Config{Path: path}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.from.Close()) }()
	if m.to, err = pgledger.Open(ctx, pgledger.Config{Database: database(url), Timeout: time.Minute}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.to.Close()) }()

	signed, c, err := signedBeside(ctx, path)
	if err != nil {
		return err
	}
	if err := m.copy(ctx, c); err != nil {
		return err
	}
	root := m.edge.Tree()
	there, err := m.root(ctx)
	if err != nil {
		return err
	}
	if there != root {
		return fmt.Errorf("the roots differ: %d %s in %s, %d %s in the database; nobody may use that database", root.N, root.Hash, path, there.N, there.Hash)
	}
	if signed != nil {
		if err := m.to.ImportCheckpoint(ctx, signed); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(stdout, "ok: %d entries, root %s in both; sign on with the same key: %s\n", root.N, root.Hash, signingKeyFile)
	return err
}

// signedBeside is the checkpoint in the folder of the file, nil when there is none.
func signedBeside(ctx context.Context, path string) ([]byte, tree.Checkpoint, error) {
	folder, err := tree.OpenFolder(filepath.Dir(path))
	if err != nil {
		return nil, tree.Checkpoint{}, err
	}
	signed, err := folder.Read(ctx, "checkpoint")
	if err = errors.Join(ignoreMissing(err), folder.Close()); err != nil || signed == nil {
		return nil, tree.Checkpoint{}, err
	}
	text, _, _ := bytes.Cut(signed, []byte("\n\n")) // the next auditor checks the signatures
	c, err := tree.ParseCheckpoint(string(text) + "\n")
	return signed, c, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// copy brings the database up to the file, which must be the log that was signed.
func (m *migration) copy(ctx context.Context, c tree.Checkpoint) error {
	total := m.from.Len()
	have, err := m.to.End(ctx)
	if err != nil {
		return err
	}
	if have > total {
		return fmt.Errorf("the database has %d entries and the file %d: they are two logs, or an auditor has used the database since", have, total)
	}
	if have > 0 {
		fmt.Fprintf(m.stderr, "migrate: %d entries are in the database already and are compared\n", have)
	}
	if err := m.compare(ctx, have); err != nil {
		return err
	}
	var failed error
	err = m.from.Lines(ctx, have, func(p ledger.Place, line []byte) bool {
		if failed = m.add(ctx, line, c); failed == nil && p.Seq == total {
			failed = m.flush(ctx)
		}
		m.tick.Do(func() { fmt.Fprintf(m.stderr, "migrate: %d of %d entries\n", p.Seq, total) })
		return failed == nil
	})
	return errors.Join(err, failed)
}

// compare reads both logs up to an entry.
func (m *migration) compare(ctx context.Context, upTo int64) error {
	leaves := make(chan [32]byte, 256)
	reading, stop := context.WithCancel(ctx)
	read := make(chan error, 1)
	go func() {
		defer close(leaves)
		read <- m.to.Leaves(reading, 0, upTo, func(leaf [32]byte) error {
			select {
			case leaves <- leaf:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		})
	}()
	var failed error
	err := m.from.Lines(ctx, 0, func(p ledger.Place, line []byte) bool {
		if p.Seq > upTo {
			return false
		}
		leaf, ok := <-leaves
		if mine := leafOf(line); !ok || mine != leaf {
			failed = fmt.Errorf("entry %d in the database is not that of the file: they are two logs", p.Seq)
			return false
		}
		m.edge.Append(leaf)
		m.tick.Do(func() { fmt.Fprintf(m.stderr, "migrate: %d of %d entries compared\n", p.Seq, upTo) })
		return true
	})
	stop()
	other := <-read
	if failed == nil && err == nil && !errors.Is(other, context.Canceled) {
		err = other
	}
	return errors.Join(failed, err)
}

func leafOf(line []byte) [32]byte {
	return tree.Leaf(append(line[:len(line):len(line)], '\n'))
}

// add puts a line into the next batch.
func (m *migration) add(ctx context.Context, line []byte, c tree.Checkpoint) error {
	m.edge.Append(leafOf(line))
	if m.edge.Size() == c.N && m.edge.Tree() != c.Tree {
		return fmt.Errorf("the first %d lines are not those that were signed in the checkpoint beside the log; auditor verify says more", c.N)
	}
	m.lines, m.bytes = append(m.lines, bytes.Clone(line)), m.bytes+len(line)
	if len(m.lines) == importLines || m.bytes >= importBytes {
		return m.flush(ctx)
	}
	return nil
}

func (m *migration) flush(ctx context.Context) error {
	if len(m.lines) == 0 {
		return nil
	}
	first := m.edge.Size() - int64(len(m.lines)) + 1
	err := m.to.Import(ctx, first, m.lines)
	m.lines, m.bytes = m.lines[:0], 0
	return err
}

// root reads the database again.
func (m *migration) root(ctx context.Context) (t tlog.Tree, err error) {
	end, err := m.to.End(ctx)
	if err != nil {
		return t, err
	}
	var edge tree.Edge
	err = m.to.Leaves(ctx, 0, end, func(leaf [32]byte) error {
		edge.Append(leaf)
		m.tick.Do(func() { fmt.Fprintf(m.stderr, "migrate: %d of %d entries read back\n", edge.Size(), end) })
		return nil
	})
	return edge.Tree(), err
}
