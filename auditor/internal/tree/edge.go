package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Leaf is what the tree holds of a line of the log: the SHA-256 of the line with
// its line feed. Its Merkle leaf hash is MerkleLeaf.
func Leaf(line []byte) [32]byte { return sha256.Sum256(line) }

// MerkleLeaf is the leaf hash of RFC 6962: SHA-256(0x00 || leaf).
func MerkleLeaf(leaf [32]byte) tlog.Hash {
	var b [1 + len(leaf)]byte
	copy(b[1:], leaf[:])
	return sha256.Sum256(b[:])
}

// An Edge is the right edge of a tree: the hashes of all tiles that are not full.
// It is all that is needed to append a leaf and to compute the root. The zero
// value is the empty tree. At ten million leaves it holds about 20 KiB.
type Edge struct {
	size   int64
	levels [][]byte // the hashes of the partial tile of each level
	bundle []byte   // the entries of the partial tile of level 0
}

// Size is the number of leaves.
func (e *Edge) Size() int64 { return e.size }

// Append adds a leaf, and returns the tiles that became full, in the order in
// which they have to be written: entries, level 0, level 1 and so on. It is nil
// for 255 of 256 leaves.
func (e *Edge) Append(leaf [32]byte) (full []Tile) {
	if e.bundle == nil {
		e.bundle = make([]byte, 0, Width*(2+len(leaf)))
	}
	e.bundle = binary.BigEndian.AppendUint16(e.bundle, uint16(len(leaf)))
	e.bundle = append(e.bundle, leaf[:]...)
	h := MerkleLeaf(leaf)
	for level := 0; ; level++ {
		if level == len(e.levels) {
			e.levels = append(e.levels, nil)
		}
		if e.levels[level] == nil {
			e.levels[level] = make([]byte, 0, Width*tlog.HashSize)
		}
		hashes := append(e.levels[level], h[:]...)
		e.levels[level] = hashes
		if len(hashes) < Width*tlog.HashSize {
			break
		}
		n := e.size >> (Height * (level + 1))
		if level == 0 {
			full = append(full, newTile(entries, n, Width, e.bundle))
			e.bundle = nil
		}
		full = append(full, newTile(level, n, Width, hashes))
		h = subtree(hashes)
		e.levels[level] = nil // the tile has it
	}
	e.size++
	return full
}

// Partial returns the tiles that are not full: what a checkpoint of this size
// needs beside the full ones. Their data is valid until the next Append.
func (e *Edge) Partial() []Tile {
	var tiles []Tile
	for level, hashes := range e.levels {
		if w := len(hashes) / tlog.HashSize; w > 0 {
			n := e.size >> (Height * (level + 1))
			if level == 0 {
				tiles = append(tiles, newTile(entries, n, w, e.bundle))
			}
			tiles = append(tiles, newTile(level, n, w, hashes))
		}
	}
	return tiles
}

// Tree returns the size and the root hash.
func (e *Edge) Tree() tlog.Tree {
	root, err := tlog.TreeHash(e.size, tlog.HashReaderFunc(e.read))
	if err != nil {
		panic(err) // each hash that TreeHash asks for is in a partial tile
	}
	return tlog.Tree{N: e.size, Hash: root}
}

func (e *Edge) read(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		t := tlog.TileForIndex(Height, index)
		if t.L >= len(e.levels) {
			return nil, fmt.Errorf("no hash %d in a tree of %d leaves", index, e.size)
		}
		t.W = len(e.levels[t.L]) / tlog.HashSize
		h, err := tlog.HashFromTile(t, e.levels[t.L], index)
		if err != nil {
			return nil, err
		}
		hashes[i] = h
	}
	return hashes, nil
}

// NewEdge is the edge of a tree of size leaves. read returns the data of a partial
// tile. The tiles are not trusted: the caller compares Tree with a root it trusts.
func NewEdge(size int64, read func(tlog.Tile) ([]byte, error)) (*Edge, error) {
	e := &Edge{size: size}
	for level := 0; size>>(Height*level) > 0; level++ {
		n := size >> (Height * level)
		e.levels = append(e.levels, nil)
		t := tlog.Tile{H: Height, L: level, N: n >> Height, W: int(n % Width)}
		if t.W == 0 {
			continue
		}
		hashes, err := read(t)
		if err != nil {
			return nil, err
		}
		e.levels[level] = append([]byte(nil), hashes...)
		if level > 0 {
			continue
		}
		t.L = entries
		bundle, err := read(t)
		if err != nil {
			return nil, err
		}
		e.bundle = append([]byte(nil), bundle...)
		for i := range t.W {
			leaf, ok := bundleLeaf(bundle, i)
			if !ok || MerkleLeaf(leaf) != tlog.Hash(hashes[i*tlog.HashSize:][:tlog.HashSize]) {
				return nil, errors.New(Path(t) + " does not have the entries of " + Path(tlog.Tile{H: Height, L: 0, N: t.N, W: t.W}))
			}
		}
	}
	return e, nil
}

// subtree is the hash of the node above the hashes of a full tile.
func subtree(hashes []byte) tlog.Hash {
	nodes := append([]byte(nil), hashes...)
	for ; len(nodes) > tlog.HashSize; nodes = nodes[:len(nodes)/2] {
		for i := 0; i < len(nodes); i += 2 * tlog.HashSize {
			h := tlog.NodeHash(tlog.Hash(nodes[i:]), tlog.Hash(nodes[i+tlog.HashSize:]))
			copy(nodes[i/2:], h[:])
		}
	}
	return tlog.Hash(nodes)
}

// bundleLeaf is entry i of an entry bundle, each a length of two bytes and 32 bytes.
func bundleLeaf(bundle []byte, i int) (leaf [32]byte, ok bool) {
	const step = 2 + len(leaf)
	if len(bundle) < (i+1)*step || binary.BigEndian.Uint16(bundle[i*step:]) != uint16(len(leaf)) {
		return leaf, false
	}
	copy(leaf[:], bundle[i*step+2:])
	return leaf, true
}
