package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
)

// A DamageError: the log is not the one that was signed. Line is the first bad
// line, counted from 1; 0 when the tiles that would tell it are gone too.
type DamageError struct {
	Line   int64
	Reason string
}

func (e *DamageError) Error() string {
	if e.Line == 0 {
		return e.Reason
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
}

// window is how many lines after the first bad one are compared, to tell what was
// done to the log.
const window = 2 * Width

// A Checker holds lines of a log, from the first one on, to a checkpoint.
//
// The root alone decides whether the lines are the ones that were signed. The
// tiles tell which line is not: a stored tile that leads to the signed root has
// the hashes that were signed. A tile that does not is itself damaged.
type Checker struct {
	ctx    context.Context
	store  Store
	want   Checkpoint
	repair bool // tiles that are lost or unfinished are written again
	old    *Checkpoint

	edge    Edge
	bad     int64      // the first bad line, 0 while there is none
	got     [][32]byte // from the bad line on, at most window
	leaves  [][32]byte // those since the last full tile
	lost    []TileError
	stored  int         // tiles that were there
	wrong   []TileError // beyond repair until the root has decided
	again   []Tile      // what belongs in place of the tiles in wrong
	suspect int64       // the first line that differs from a tile in wrong
}

// NewChecker returns a Checker that has seen no line.
func NewChecker(ctx context.Context, s Store, want Checkpoint, repair bool) *Checker {
	return &Checker{ctx: ctx, store: s, want: want, repair: repair}
}

// Since also holds the first lines to an older checkpoint of the log.
func (c *Checker) Since(old Checkpoint) { c.old = &old }

// Add takes the next lines. It returns a *DamageError as soon as it knows what is
// wrong with them; other errors come from the store.
func (c *Checker) Add(leaves ...[32]byte) error {
	for _, leaf := range leaves {
		if c.bad > 0 {
			if c.got = append(c.got, leaf); len(c.got) >= window {
				return c.name()
			}
			continue
		}
		if c.edge.size == c.want.N {
			return nil // nothing was signed beyond it
		}
		c.leaves = append(c.leaves, leaf)
		full := c.edge.Append(leaf)
		for _, t := range full {
			if err := c.compare(t); err != nil {
				return err
			}
			if c.bad > 0 {
				break
			}
		}
		if full != nil && c.bad == 0 {
			c.leaves = c.leaves[:0]
		}
		if c.old != nil && c.edge.size == c.old.N && c.bad == 0 && c.edge.Tree() != c.old.Tree {
			return c.rewritten()
		}
		if c.edge.size == c.want.N && c.bad == 0 {
			if err := c.atEnd(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Checker) rewritten() error {
	return &DamageError{0, fmt.Sprintf("lines 1 to %d are not the ones that the older checkpoint covers: the log was rewritten, and signed anew", c.old.N)}
}

// atEnd has seen each line that was signed.
func (c *Checker) atEnd() error {
	for _, t := range c.edge.Partial() {
		if err := c.compare(t); err != nil || c.bad > 0 {
			return err
		}
	}
	if c.edge.Tree() != c.want.Tree {
		if c.suspect > 0 {
			return &DamageError{c.suspect, fmt.Sprintf("this line, or one near it, is not the one that was signed: it is the first that differs from the tiles, but the tiles do not lead to the root that was signed either (first %s)", c.wrong[0].Path)}
		}
		return &DamageError{0, fmt.Sprintf("lines 1 to %d are not the ones that were signed, and no tile is left that tells which of them", c.want.N)}
	}
	if !c.repair {
		return nil
	}
	for _, t := range c.again { // the root says that these are right
		if err := c.store.WriteTile(c.ctx, t.Path, t.Data); err != nil {
			return err
		}
	}
	return nil
}

// Done is called after the last line.
func (c *Checker) Done() error {
	switch {
	case c.bad > 0:
		return c.name()
	case c.edge.size < c.want.N:
		// A line may be missing before the end, in the tile that is not full.
		at := tlog.Tile{H: Height, N: c.edge.size / Width, W: len(c.leaves)}
		if signed, err := hashes(c.ctx, c.store, c.want.Tree).ReadHashes(indexes(at)); err == nil {
			if c.begin(at.N*Width, signed); c.bad > 0 {
				return c.name()
			}
		}
		return &DamageError{c.edge.size + 1, fmt.Sprintf("the log ends after line %d, %d lines were signed: %d are cut off", c.edge.size, c.want.N, c.want.N-c.edge.size)}
	case c.old != nil && c.old.N > c.want.N:
		return &DamageError{0, fmt.Sprintf("the checkpoint covers %d lines, the older one %d: the log was rolled back", c.want.N, c.old.N)}
	case c.want.N == 0 && c.edge.Tree() != c.want.Tree:
		return &DamageError{0, "the checkpoint of an empty log has another root"}
	}
	return nil
}

// Tiles returns the tiles that were lost or damaged although the lines are the ones
// that were signed. Of other lines, tiles say nothing that DamageError does not.
func (c *Checker) Tiles() []TileError {
	if c.bad > 0 {
		return c.lost
	}
	return append(c.lost, c.wrong...)
}

// NoTiles says that there is not one tile: the log is a copy of the lines and their
// checkpoint, which the root alone has decided about.
func (c *Checker) NoTiles() bool { return c.stored == 0 && len(c.lost) > 0 }

// compare holds a tile made from the lines to the stored one.
func (c *Checker) compare(t Tile) error {
	stored, err := c.read(t)
	if err == nil {
		c.stored++
	}
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err == nil && bytes.Equal(stored, t.Data):
		return nil
	case err != nil || unfinished(t.at, stored):
		reason := "is missing"
		if err == nil {
			reason = "is not complete"
		}
		c.lost = append(c.lost, TileError{t.Path, reason})
		if c.repair {
			return c.store.WriteTile(c.ctx, t.Path, t.Data)
		}
		return nil
	}
	if t.at.L >= 0 {
		if signed, err := hashes(c.ctx, c.store, c.want.Tree).ReadHashes(indexes(t.at)); err == nil {
			return c.differs(t, signed)
		}
	}
	if c.suspect == 0 {
		c.suspect = firstLine(t, stored)
	}
	c.wrong = append(c.wrong, TileError{t.Path, "holds other hashes than the lines of the log have"})
	t.Data = bytes.Clone(t.Data)
	c.again = append(c.again, t)
	return nil
}

// read reads the stored tile. A partial one may have become full since.
func (c *Checker) read(t Tile) ([]byte, error) {
	data, err := ReadTile(c.ctx, c.store, t.at)
	var cut *TileError
	if errors.As(err, &cut) {
		return nil, nil // as good as unfinished
	}
	return data, err
}

// differs knows the signed hashes of a tile that the lines do not have.
func (c *Checker) differs(t Tile, signed []tlog.Hash) error {
	if t.at.L == 0 {
		c.begin(t.at.N*Width, signed)
		return nil
	}
	// The tile below agrees with the lines: it was altered with them.
	for i, h := range signed {
		if !bytes.Equal(h[:], t.Data[i*tlog.HashSize:][:tlog.HashSize]) {
			span := int64(1) << (Height * t.at.L)
			from := (t.at.N*Width + int64(i)) * span
			return &DamageError{from + 1, fmt.Sprintf("lines %d to %d are not the ones that were signed, and the tiles below %s were altered with them", from+1, from+span, t.Path)}
		}
	}
	return nil
}

// begin notes the first line since the last full tile whose hash is not the signed one.
func (c *Checker) begin(before int64, signed []tlog.Hash) {
	for i, leaf := range c.leaves {
		if MerkleLeaf(leaf) != signed[i] {
			c.bad = before + int64(i) + 1
			c.got = append(c.got, c.leaves[i:]...)
			return
		}
	}
}

// name says what was done to the log at the first bad line, as far as the lines
// that follow show it.
func (c *Checker) name() error {
	n := min(int64(len(c.got))+window, c.want.N-c.bad+1)
	index := make([]int64, n)
	for i := range index {
		index[i] = tlog.StoredHashIndex(0, c.bad-1+int64(i))
	}
	signed, err := hashes(c.ctx, c.store, c.want.Tree).ReadHashes(index)
	if err != nil { // a later tile is damaged too
		return &DamageError{c.bad, "the line is not the one that was signed"}
	}
	got := make([]tlog.Hash, len(c.got))
	for i, leaf := range c.got {
		got[i] = MerkleLeaf(leaf)
	}
	return &DamageError{c.bad, describe(got, signed)}
}

// describe compares the lines that are there with the ones that were signed, both
// from the first one that differs. One line alone shows no shift.
func describe(got, signed []tlog.Hash) string {
	for k := 1; k < len(signed); k++ {
		if n := min(len(got), len(signed)-k); n >= min(2, len(got)) && n > 0 && equal(got[:n], signed[k:k+n]) {
			return fmt.Sprintf("%s before this line", missing(k))
		}
	}
	for k := 1; k < len(got); k++ {
		if n := min(len(signed), len(got)-k); n >= min(2, len(signed)) && equal(signed[:n], got[k:k+n]) {
			return fmt.Sprintf("%s inserted, beginning with this one", count(k, "line was", "lines were"))
		}
	}
	moved, changed := 0, 0
	there := make(map[tlog.Hash]bool, len(signed))
	for _, h := range signed {
		there[h] = true
	}
	for i := range min(len(got), len(signed)) {
		switch {
		case got[i] == signed[i]:
		case there[got[i]]:
			moved++
		default:
			changed++
		}
	}
	if moved > 1 && changed == 0 {
		return fmt.Sprintf("the lines are in another order: %d of the next %d are out of place", moved, len(got))
	}
	return "the line is not the one that was signed: it was altered or replaced"
}

func missing(k int) string { return count(k, "line is missing", "lines are missing") }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func equal(a, b []tlog.Hash) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// firstLine is the first line that differs from the stored tile.
func firstLine(t Tile, stored []byte) int64 {
	size := step(t.at)
	for i := range t.at.W {
		if !bytes.Equal(t.Data[i*size:(i+1)*size], stored[i*size:(i+1)*size]) {
			return (t.at.N*Width+int64(i))<<(Height*max(t.at.L, 0)) + 1
		}
	}
	return 0
}

// indexes of the hashes of a tile.
func indexes(t tlog.Tile) []int64 {
	list := make([]int64, t.W)
	for i := range list {
		list[i] = tlog.StoredHashIndex(Height*t.L, t.N*Width+int64(i))
	}
	return list
}
