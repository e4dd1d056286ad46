package pgledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/postgres"
)

// Tiles reads the tree of a database that is not opened for appending.
type Tiles struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

// OpenTiles connects to the database.
func OpenTiles(ctx context.Context, database postgres.Config) (*Tiles, error) {
	conn, err := postgres.Connect(ctx, database)
	if err != nil {
		return nil, err
	}
	return &Tiles{conn: conn}, nil
}

// Read returns a tile or the checkpoint, and fs.ErrNotExist when there is none.
func (t *Tiles) Read(ctx context.Context, path string) (data []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.conn.QueryRow(ctx, "SELECT data FROM audit.tiles WHERE path = $1", path).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return data, err
}

// Close ends the connection.
func (t *Tiles) Close() error { shut(t.conn); return nil }
