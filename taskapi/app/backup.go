package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/taskapi/internal/store"
)

// Backup is the subcommand that copies the database of a taskapi that may be running.
func Backup() process.Sub {
	return process.Sub{Name: "backup", Usage: "FILE|-", Run: backup}
}

func backup(ctx context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
	if len(args) != 1 {
		return process.Usagef("want taskapi backup FILE, or - for standard output")
	}
	r := env.NewReader(lookup)
	path, server := databaseFromEnv(r)
	if server.URL != "" {
		r.Fail("DATABASE_URL", "is a PostgreSQL, which pg_dump or pg_basebackup copies")
	}
	if err := r.Err(); err != nil {
		return err
	}
	if args[0] == "-" {
		return backupTo(ctx, path, stdout)
	}
	if err := store.Backup(ctx, path, args[0]); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, "ok:", args[0])
	return err
}

// backupTo makes the copy beside the database first: a pod has no other place.
func backupTo(ctx context.Context, path string, stdout io.Writer) (err error) {
	folder, err := os.MkdirTemp(filepath.Dir(path), "backup-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	copied := filepath.Join(folder, "tasks.db")
	if err := store.Backup(ctx, path, copied); err != nil {
		return err
	}
	f, err := os.Open(copied)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(stdout, f)
	return err
}
