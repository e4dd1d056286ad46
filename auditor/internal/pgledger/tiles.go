package pgledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/postgres"
)

const checkpoint = "checkpoint"

// ReadTile returns a tile or the checkpoint, and fs.ErrNotExist when there is none.
func (l *Ledger) ReadTile(ctx context.Context, path string) (data []byte, err error) {
	err = l.row(ctx, "SELECT data FROM audit.tiles WHERE path = $1", []any{path}, &data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return data, err
}

// Leaves calls yield with the leaf of each entry after one and up to another. It is
// computed from the line as it is now, and must be what was stored with it.
func (l *Ledger) Leaves(ctx context.Context, after, upTo int64, yield func(leaf [32]byte) error) error {
	for after < upTo {
		from := after
		err := l.again(ctx, func() error { return l.leaves(ctx, &after, upTo, yield) })
		if err != nil || after == from {
			return err
		}
	}
	return nil
}

// leaves is one page of Leaves; it moves after on.
func (l *Ledger) leaves(ctx context.Context, after *int64, upTo int64, yield func(leaf [32]byte) error) error {
	rows, err := l.pool.Query(ctx, `SELECT seq, leaf, leaf = sha256(line || '\x0a') FROM audit.entries WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT 2000`, *after, upTo)
	if err != nil {
		return err
	}
	var seq int64
	var leaf []byte
	var same bool
	_, err = pgx.ForEachRow(rows, []any{&seq, &leaf, &same}, func() error {
		switch {
		case seq != *after+1:
			return schemaError("entry %d is missing; restore the database", *after+1)
		case !same:
			return schemaError("entry %d was altered: it differs from the hash that was stored with it; restore the database", seq)
		}
		*after = seq
		return yield([32]byte(leaf))
	})
	return err
}

// Term is the time for which this auditor, and no other, writes the tree. It ends
// with its session: what is written goes through the session that holds the lock, so
// an auditor that has lost it can write nothing any more.
type Term struct {
	ledger *Ledger
	mu     sync.Mutex // guards conn
	conn   *pgx.Conn
	over   chan struct{}
	once   sync.Once
}

// Lead waits until no other auditor writes the tree.
func (l *Ledger) Lead(ctx context.Context) (*Term, error) {
	conn, err := postgres.Connect(ctx, l.cfg.Database)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{
		"SET lock_timeout = 0; SET statement_timeout = 0",
		fmt.Sprintf("SELECT pg_advisory_lock(%d)", postgres.LockID("audit tree")),
		"SET statement_timeout = '10s'",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			shut(conn)
			return nil, err
		}
	}
	return &Term{ledger: l, conn: conn, over: make(chan struct{})}, nil
}

// Over is closed when something could not be written.
func (t *Term) Over() <-chan struct{} { return t.over }

// Close lets another auditor lead.
func (t *Term) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	shut(t.conn)
}

// Read returns a tile or the checkpoint.
func (t *Term) Read(ctx context.Context, path string) ([]byte, error) {
	return t.ledger.ReadTile(ctx, path)
}

// WriteTile stores a tile. A full one replaces the partial ones of its path.
func (t *Term) WriteTile(ctx context.Context, path string, data []byte) error {
	err := t.write(ctx, path, data)
	if err == nil && !strings.Contains(path, ".p/") {
		err = t.exec(ctx, "DELETE FROM audit.tiles WHERE path LIKE $1", path+".p/%")
	}
	return err
}

// WriteCheckpoint replaces the checkpoint.
func (t *Term) WriteCheckpoint(ctx context.Context, note []byte) error {
	return t.write(ctx, checkpoint, note)
}

func (t *Term) write(ctx context.Context, path string, data []byte) error {
	return t.exec(ctx, "INSERT INTO audit.tiles (path, data) VALUES ($1, $2) ON CONFLICT (path) DO UPDATE SET data = excluded.data", path, data)
}

func (t *Term) exec(ctx context.Context, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, t.ledger.cfg.Timeout)
	defer cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.conn.Exec(ctx, statement, args...)
	if err = errors.Join(err, postgres.Confirmed(t.conn.PgConn())); err != nil {
		t.once.Do(func() { close(t.over) })
	}
	return err
}

// ImportCheckpoint stores the checkpoint of a log that was imported, unless there is one.
func (l *Ledger) ImportCheckpoint(ctx context.Context, signed []byte) error {
	_, err := l.pool.Exec(ctx, "INSERT INTO audit.tiles (path, data) VALUES ($1, $2) ON CONFLICT DO NOTHING", checkpoint, signed)
	return err
}
