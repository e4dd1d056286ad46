package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
)

// Migrate is the subcommand that moves a file into PostgreSQL.
func Migrate() process.Sub {
	return process.Sub{Name: "migrate", Usage: "sqlite:PATH", Run: migrate}
}

// migrate copies a file into the database of DATABASE_URL.
//
// What if it dies right here? Before the commit in PostgreSQL nothing has happened
// and it is run again. After it, and before the file is marked, the file could
// still be used: so the next run, which holds the file's lock as this one does,
// finds that its contents were copied as they are and marks it. Contents that have
// changed since are refused, because the database is no longer empty.
func migrate(ctx context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
	if len(args) != 1 {
		return process.Usagef("want taskapi migrate sqlite:PATH, and DATABASE_URL=postgres://... for where it goes")
	}
	path, err := databasePath(args[0])
	if err != nil {
		return process.Usagef("%v", err)
	}
	r := env.NewReader(lookup)
	_, to := databaseFromEnv(r)
	if to.URL == "" && r.Err() == nil {
		r.Fail("DATABASE_URL", "want postgres://USER@HOST:PORT/DATABASE, where the tasks go")
	}
	if err := r.Err(); err != nil {
		return err
	}
	return move(ctx, path, to, stdout)
}

func move(ctx context.Context, path string, to postgres.Config, stdout io.Writer) (err error) {
	if _, err := os.Stat(path); err != nil { // Open would make a new one
		return fmt.Errorf("read the tasks: %w", err)
	}
	file, err := store.Open(ctx, store.Config{Path: path})
	if err != nil {
		return fmt.Errorf("read the tasks: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	contents, err := file.Contents(ctx)
	if err != nil {
		return err
	}
	copied, err := pgstore.Fill(ctx, to, contents)
	if err != nil {
		return err
	}
	if err := file.MarkMoved(ctx); err != nil {
		return fmt.Errorf("%w; all of it is in the database: run this again to mark the file", err)
	}
	if copied.Before {
		fmt.Fprintf(stdout, "the contents of %s were copied before\n", path)
	} else {
		fmt.Fprintf(stdout, "copied %d tasks, %d events of which %d wait for Kafka, %d idempotency keys\n", copied.Tasks, copied.Events, copied.Waiting, copied.Keys)
	}
	_, err = fmt.Fprintf(stdout, "%s is marked as moved: a taskapi that is started with it refuses\nnext: start taskapi with DATABASE_URL as it is set now; the first replica publishes the events that wait\n", path)
	return err
}
