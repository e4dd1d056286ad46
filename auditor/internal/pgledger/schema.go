package pgledger

import (
	"context"
	"embed"
	"io/fs"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/postgres"
)

//go:embed migrations/*.sql
var files embed.FS

// migrate brings the schema up to this program.
func migrate(ctx context.Context, conn *pgx.Conn) error {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	steps := make([]string, len(names))
	for i, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		steps[i] = string(text)
	}
	return postgres.Migrate(ctx, conn, "audit", steps)
}

// uniqueOn counts the indexes that keep one column of the entries unique, at once
// and for every row.
const uniqueOn = `
SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = $1 AND a.attnotnull
WHERE i.indrelid = 'audit.entries'::regclass AND i.indisunique AND i.indisvalid AND i.indisready AND i.indislive AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum`

// inspect refuses tables on which exactly once would rest on nothing.
func inspect(ctx context.Context, conn *pgx.Conn) error {
	for _, column := range []string{"key", "seq"} {
		var n int
		if err := conn.QueryRow(ctx, uniqueOn, column).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return schemaError("the unique index on audit.entries (%s) is missing, invalid or altered; find out who changed it, check the log with auditor verify, and create it again", column)
		}
	}
	var heads int
	var entries, last int64
	err := conn.QueryRow(ctx, "SELECT count(*), coalesce(max(entries), 0), (SELECT coalesce(max(seq), 0) FROM audit.entries) FROM audit.head").Scan(&heads, &entries, &last)
	switch {
	case err != nil:
		return err
	case heads != 1:
		return schemaError("audit.head has %d rows, want 1; restore the database", heads)
	case entries < last:
		return schemaError("audit.head says %d entries and the last one has number %d; restore the database", entries, last)
	case entries > last:
		return schemaError("entries are missing: the last one has number %d and audit.head says %d; restore the database", last, entries)
	}
	return nil
}

// limit is for the session that writes. It waits for the head as long as a batch
// may take, and loses its own hold of it when its program is stopped or cut off in a
// transaction: the others would wait for it for ever.
func limit(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = '5s'")
	return err
}
