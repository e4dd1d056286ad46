package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/ownfile"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/secretfile"
)

const (
	signingKeyFile = "AUDIT_SIGNING_KEY_FILE"
	// keySuffix is the name of the key that a first start makes, after the log's.
	keySuffix = ".key"
)

// Key is the subcommand that prints the verifier keys of the log, or a new signing key.
func Key() process.Sub {
	return process.Sub{Name: "key", Usage: "[--new [ORIGIN] | PATH]", Run: func(_ context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
		if len(args) > 0 && args[0] == "--new" {
			if len(args) > 2 {
				return process.Usagef("want key --new [ORIGIN]")
			}
			key, err := tree.NewKey(optional(args, 1))
			if err != nil {
				return process.Usagef("%v", err)
			}
			fmt.Fprintln(stdout, key)
			return nil
		}
		if len(args) > 1 {
			return process.Usagef("want key [--new [ORIGIN] | PATH]")
		}
		path := optional(args, 0)
		if path == "" {
			path = env.NewReader(lookup).String("AUDIT_LOG_PATH", defaultPath)
		}
		keys, err := readKeys(lookup, path)
		if err != nil {
			return err
		}
		for _, k := range keys.VKeys {
			fmt.Fprintln(stdout, k)
		}
		return nil
	}}
}

// openKeys reads the signing keys again whenever their file changes. Without a file
// of the operator's the key is beside the log, and made with the first checkpoint:
// a log that has one and lost its key must not go on under another.
func openKeys(ctx context.Context, file, path string, store tree.Store, log *slog.Logger) (func() (*tree.Keys, error), error) {
	if file == "" {
		file = path + keySuffix
		if err := makeKey(ctx, file, store); err != nil {
			return nil, err
		}
	}
	keys, err := secretfile.Open(file, tree.ParseKeys, log)
	if err != nil {
		return nil, err
	}
	return keys.Load, nil
}

func makeKey(ctx context.Context, file string, store tree.Store) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := store.Read(ctx, "checkpoint"); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s is missing, and the checkpoint of the log was signed with it; restore it or set %s", file, signingKeyFile)
		}
		return err
	}
	key, err := tree.NewKey("")
	if err != nil {
		return err
	}
	// Under its name only when it is complete, and before anything is signed with it.
	next := file + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := ownfile.Open(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(key + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(next, file)
}
