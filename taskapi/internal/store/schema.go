package store

import (
	"context"
	"database/sql"
	"fmt"
)

// applicationID marks our files, so that the database of another program is
// refused and not changed.
const applicationID = 0x7461736b // "task"

// migrations are applied in order, each once; PRAGMA user_version counts them.
// A migration that was released is never edited.
//
// unpublished holds the ids of outbox rows that Kafka has not acknowledged.
// Marking a row deletes eight bytes there instead of rewriting a page of
// events, and finding the next rows reads nothing that is done.
var migrations = []string{`
CREATE TABLE task (
  id         TEXT PRIMARY KEY,
  title      TEXT NOT NULL,
  status     TEXT NOT NULL,
  owner_id   TEXT,
  version    INTEGER NOT NULL,
  created_at INTEGER NOT NULL, -- microseconds since 1970, as all times here
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX task_by_status ON task (status, id);
CREATE INDEX task_by_owner ON task (owner_id, id) WHERE owner_id IS NOT NULL;

CREATE TABLE outbox (
  id         INTEGER PRIMARY KEY,
  task_id    TEXT NOT NULL,
  event      BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE unpublished (id INTEGER PRIMARY KEY) STRICT;

CREATE TABLE idempotency (
  key         TEXT PRIMARY KEY,
  fingerprint BLOB NOT NULL,
  answer      TEXT NOT NULL,
  created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_at);
`}

// indexes are made to fit the queries of this version and hold nothing of their
// own. An older taskapi works with them, so they are no migration: the way back stays open.
//
// task_by_owner_and_status serves a list by owner, too: it is read once for each status.
const indexes = `
BEGIN IMMEDIATE;
CREATE INDEX IF NOT EXISTS task_by_owner_and_status ON task (owner_id, status, id) WHERE owner_id IS NOT NULL;
DROP INDEX IF EXISTS task_by_owner;
COMMIT;`

// migrate brings the schema up to date. A file of another application, or one
// that a newer version wrote, is refused.
func migrate(ctx context.Context, conn *sql.Conn, path string) error {
	var app, version, tables int
	for pragma, into := range map[string]*int{
		"PRAGMA application_id":              &app,
		"PRAGMA user_version":                &version,
		"SELECT count(*) FROM sqlite_schema": &tables,
	} {
		if err := conn.QueryRowContext(ctx, pragma).Scan(into); err != nil {
			return fmt.Errorf("read the schema of %s: %w", path, err)
		}
	}
	switch {
	case app == movedID:
		return errMoved(path)
	case app != applicationID && (app != 0 || tables > 0):
		return fmt.Errorf("%s is the database of another program; set DATABASE_URL to another path", path)
	case version > len(migrations):
		return fmt.Errorf("%s has schema %d, this taskapi knows schemas up to %d; use a newer taskapi", path, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		// One transaction: a crash leaves the schema before or after.
		script := fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA application_id = %d;\nPRAGMA user_version = %d;\nCOMMIT;",
			migrations[version], applicationID, version+1)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("migrate %s to schema %d: %w", path, version+1, err)
		}
	}
	if _, err := conn.ExecContext(ctx, indexes); err != nil {
		return fmt.Errorf("make the indexes of %s: %w", path, err)
	}
	return nil
}
