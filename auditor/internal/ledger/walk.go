package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// A Block is a run of complete lines of a log on disk.
type Block struct {
	First  int64      // the number of its first line, counted from 1
	File   string     // where it is
	Offset int64      // of the first line in File
	Lines  []byte     // with their line feeds
	Count  int        // of lines
	Leaves [][32]byte // the SHA-256 of each line with its line feed; of Walk only
	Bad    *BadLine   // the first line that is not an entry with the number of its line; of Walk only

	seqs []int64
	done chan struct{}
}

// A BadLine is a line that is no entry of this program, or the entry of another line.
type BadLine struct {
	Line   int64
	File   string
	Byte   int64 // in File
	Reason string
}

// Walk calls yield with all complete lines of the log at path, in order. It takes no
// lock: the auditor may run. torn is the number of bytes after the last line feed,
// which are being written or were never acknowledged. Lines are hashed and parsed
// by one goroutine for each processor.
func Walk(ctx context.Context, path string, yield func(*Block) error) (torn int64, err error) {
	return walk(ctx, path, (*Block).read, yield)
}

// Scan is Walk without hashing and parsing, several times as fast.
func Scan(ctx context.Context, path string, yield func(*Block) error) (torn int64, err error) {
	return walk(ctx, path, (*Block).count, yield)
}

func walk(ctx context.Context, path string, read func(*Block), yield func(*Block) error) (torn int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	work, order := make(chan *Block), make(chan *Block, 2*runtime.GOMAXPROCS(0))
	var rest int64
	var readErr error
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(order)
		defer close(work)
		rest, readErr = readBlocks(ctx, path, func(b *Block) bool {
			for _, c := range []chan *Block{work, order} {
				select {
				case c <- b:
				case <-ctx.Done():
					return false
				}
			}
			return true
		})
	})
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for b := range work {
				read(b)
				close(b.done)
			}
		})
	}
	next := int64(1)
	for b := range order {
		<-b.done
		b.number(next)
		next += int64(b.Count)
		if err := yield(b); err != nil {
			return 0, err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return rest, readErr // order is closed after both are set
}

// readBlocks cuts the files of the log into blocks that end with a line.
func readBlocks(ctx context.Context, path string, next func(*Block) bool) (torn int64, err error) {
	log, err := OpenReader(path)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	for i, seg := range log.list {
		if torn > 0 {
			return 0, fmt.Errorf("%s does not end with a line feed, but %s follows it", log.list[i-1].name, seg.name)
		}
		if torn, err = readFile(seg, next); err != nil || ctx.Err() != nil {
			return torn, err
		}
	}
	return torn, nil
}

func readFile(seg segment, next func(*Block) bool) (torn int64, err error) {
	f, name := io.NewSectionReader(seg.file, 0, 1<<62), seg.name
	const size = 1 << 20
	var carry []byte
	for at := int64(0); ; {
		buf := make([]byte, len(carry)+size)
		copy(buf, carry)
		n, err := io.ReadFull(f, buf[len(carry):])
		buf = buf[:len(carry)+n]
		end := bytes.LastIndexByte(buf, '\n') + 1
		if end > 0 && !next(&Block{File: name, Offset: at, Lines: buf[:end:end], done: make(chan struct{})}) {
			return 0, nil
		}
		at, carry = at+int64(end), buf[end:]
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return int64(len(carry)), nil
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", name, err)
		case len(carry) > maxLine:
			return 0, fmt.Errorf("%s: byte %d: %w", name, at, errTooLong)
		}
	}
}

// NewBlock is a block of lines from elsewhere, hashed and parsed as Walk does it.
func NewBlock(first int64, file string, offset int64, lines []byte) *Block {
	b := &Block{File: file, Offset: offset, Lines: lines}
	b.read()
	b.number(first)
	return b
}

// read hashes the lines, and parses them up to the first that is no entry.
func (b *Block) read() {
	b.count()
	b.Leaves, b.seqs = make([][32]byte, 0, b.Count), make([]int64, 0, b.Count)
	b.Each(func(_ int, line []byte, at int64) bool {
		b.Leaves = append(b.Leaves, sha256.Sum256(line))
		if b.Bad != nil {
			return true
		}
		r, err := readRecord(line[:len(line)-1])
		var mistake *LineError
		if errors.As(err, &mistake) {
			b.Bad = &BadLine{Line: int64(len(b.seqs)), File: b.File, Byte: at + int64(mistake.Byte), Reason: mistake.Reason}
			return true
		}
		b.seqs = append(b.seqs, r.seq)
		return true
	})
}

func (b *Block) count() { b.Count = bytes.Count(b.Lines, []byte{'\n'}) }

// number gives the lines their numbers, which must be those of their entries.
func (b *Block) number(first int64) {
	b.First = first
	if b.Bad != nil {
		b.Bad.Line += first
	}
	for i, seq := range b.seqs {
		if line := first + int64(i); seq != line {
			b.Bad = &BadLine{Line: line, File: b.File, Byte: b.at(i), Reason: fmt.Sprintf("the line has the number %d", seq)}
			return
		}
	}
}

// Each calls yield with each line, its index in the block and its offset in File,
// until it returns false.
func (b *Block) Each(yield func(i int, line []byte, at int64) bool) {
	rest := b.Lines
	for i := 0; len(rest) > 0; i++ {
		end := bytes.IndexByte(rest, '\n') + 1
		if !yield(i, rest[:end], b.Offset+int64(len(b.Lines)-len(rest))) {
			return
		}
		rest = rest[end:]
	}
}

// at is the offset of a line in File.
func (b *Block) at(index int) (offset int64) {
	b.Each(func(i int, _ []byte, at int64) bool { offset = at; return i < index })
	return offset
}
