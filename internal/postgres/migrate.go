package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/jackc/pgx/v5"
)

// Migrate brings the schema called name to its newest version: each step once, in
// order, in one transaction, one program at a time. A step that was released is
// never edited. A schema that a newer program wrote is refused.
//
// Programs of the version before go on using the schema during a rolling update,
// so a step must leave everything in place that they use.
func Migrate(ctx context.Context, conn *pgx.Conn, name string, steps []string) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return migrate(ctx, tx, name, steps) })
	if newer := (*NewerError)(nil); err != nil && !errors.As(err, &newer) {
		return fmt.Errorf("bring the schema %s up to date: %w", name, err)
	}
	return err
}

// NewerError is a schema that a newer program wrote.
type NewerError struct {
	Schema       string
	Found, Known int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the database has schema %s in version %d and this program knows versions up to %d; use the newer program again, or another database",
		e.Schema, e.Found, e.Known)
}

func migrate(ctx context.Context, tx pgx.Tx, name string, steps []string) error {
	// However long another program takes; the end of the transaction releases the lock.
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, LockID(name+" migrations")); err != nil {
		return err
	}
	quoted := pgx.Identifier{name}.Sanitize()
	version := 0
	var ours, exists bool
	err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, to_regnamespace($2) IS NOT NULL`, quoted+".schema_version", quoted).Scan(&ours, &exists)
	if err != nil {
		return err
	}
	if ours {
		err = tx.QueryRow(ctx, `SELECT version FROM `+quoted+`.schema_version`).Scan(&version)
	} else {
		script := `CREATE TABLE ` + quoted + `.schema_version (version int NOT NULL); INSERT INTO ` + quoted + `.schema_version VALUES (0)`
		if !exists { // a role that may not create it can be given one
			script = `CREATE SCHEMA ` + quoted + `; ` + script
		}
		_, err = tx.Exec(ctx, script)
	}
	switch {
	case err != nil:
		return err
	case version > len(steps):
		return &NewerError{name, version, len(steps)}
	}
	for ; version < len(steps); version++ {
		if _, err := tx.Exec(ctx, steps[version]); err != nil {
			return fmt.Errorf("version %d: %w", version+1, err)
		}
	}
	_, err = tx.Exec(ctx, `UPDATE `+quoted+`.schema_version SET version = $1 WHERE version <> $1`, version)
	return err
}

// LockID is the number of the advisory lock for a purpose. Advisory locks are per
// database.
func LockID(purpose string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("taskwire " + purpose)) // never fails
	return int64(h.Sum64())
}
