package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// Height of a tile: it covers 8 levels of the tree.
	Height = 8
	// Width of a full tile: its number of hashes, or of entries.
	Width = 1 << Height

	entries = -1 // the level of entry bundles in a tlog.Tile
)

// A Tile is a run of hashes of one level, or of entries, as C2SP tlog-tiles has it.
type Tile struct {
	Path string // tile/0/x001/234, tile/0/x001/235.p/17, tile/entries/x001/234
	Data []byte // Width hashes of 32 bytes, or fewer in a partial tile

	at tlog.Tile
}

func newTile(level int, n int64, width int, data []byte) Tile {
	t := tlog.Tile{H: Height, L: level, N: n, W: width}
	return Tile{Path: Path(t), Data: data, at: t}
}

// Path is where a tile is, in the folder of the log and below its URL.
func Path(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", Height))
	if t.L == entries {
		path = "entries" + strings.TrimPrefix(path, "data")
	}
	return "tile/" + path
}

// ParsePath is the reverse of Path. It accepts the one spelling of each tile.
func ParsePath(path string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if data, isEntries := strings.CutPrefix(rest, "entries/"); isEntries {
		rest = "data/" + data
	} else if strings.HasPrefix(rest, "data/") {
		ok = false
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", Height, rest))
	if !ok || err != nil || t.N < 0 || t.L > 63 || Path(t) != path {
		return tlog.Tile{}, fmt.Errorf("malformed tile path %q", path)
	}
	return t, nil
}

// step is the number of bytes of one hash or entry of the tile.
func step(t tlog.Tile) int {
	if t.L == entries {
		return 2 + tlog.HashSize
	}
	return tlog.HashSize
}

// unfinished reports whether the data is what a power loss may leave of a tile,
// which is not synced when it is written: too short, or with zeros where a hash
// belongs. Such a tile is made again from the log.
func unfinished(t tlog.Tile, data []byte) bool {
	size := step(t)
	if len(data) != t.W*size {
		return true
	}
	zero := make([]byte, tlog.HashSize)
	for i := range t.W {
		if bytes.Equal(data[(i+1)*size-tlog.HashSize:(i+1)*size], zero) {
			return true
		}
	}
	return false
}

// A Store keeps tiles and the checkpoint under their C2SP paths. Only one process
// writes at a time.
type Store interface {
	// Read returns what is stored under the path, and fs.ErrNotExist when nothing is.
	Read(ctx context.Context, path string) ([]byte, error)
	// WriteTile stores a tile. It may be lost in a crash, but other readers see
	// all of it or nothing. A full tile makes the partial ones of its path unnecessary.
	WriteTile(ctx context.Context, path string, data []byte) error
	// WriteCheckpoint replaces the checkpoint, durably and at once.
	WriteCheckpoint(ctx context.Context, note []byte) error
}

// ReadTile returns the data of a tile. A partial tile may be cut from the full one.
func ReadTile(ctx context.Context, s Store, t tlog.Tile) ([]byte, error) {
	data, err := s.Read(ctx, Path(t))
	if errors.Is(err, fs.ErrNotExist) && t.W < Width {
		full := t
		full.W = Width
		if data, err = s.Read(ctx, Path(full)); err == nil {
			data = data[:min(len(data), t.W*step(t))]
		}
	}
	if err != nil {
		return nil, err
	}
	if len(data) != t.W*step(t) {
		return nil, &TileError{Path: Path(t), Reason: fmt.Sprintf("has %d bytes, want %d", len(data), t.W*step(t))}
	}
	return data, nil
}

// writeTile keeps tiles immutable: the same bytes again are fine, other bytes are
// an error, except in place of an unfinished tile.
func writeTile(ctx context.Context, s Store, t Tile) error {
	old, err := s.Read(ctx, t.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case bytes.Equal(old, t.Data):
		return nil
	case !unfinished(t.at, old):
		return &DamageError{firstLine(t, old), "differs from " + t.Path + ", which was made from it earlier"}
	}
	return s.WriteTile(ctx, t.Path, t.Data)
}

// A TileError is a tile that does not belong to the log.
type TileError struct{ Path, Reason string }

func (e *TileError) Error() string { return e.Path + " " + e.Reason }

// hashes returns the reader of a tree's hashes: each one is proven against the
// root of the tree before it is returned.
func hashes(ctx context.Context, s Store, tree tlog.Tree) tlog.HashReader {
	return tlog.TileHashReader(tree, &tileReader{ctx, s})
}

type tileReader struct {
	ctx   context.Context
	store Store
}

func (r *tileReader) Height() int                     { return Height }
func (r *tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		var err error
		if data[i], err = ReadTile(r.ctx, r.store, t); err != nil {
			return nil, err
		}
	}
	return data, nil
}
