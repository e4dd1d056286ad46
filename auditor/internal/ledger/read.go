package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

var (
	errUnfinished = errors.New("the line has no end")
	errTooLong    = fmt.Errorf("the line is longer than %d bytes", maxLine)
)

// lineReader reads the lines between two offsets.
type lineReader struct {
	r       io.ReaderAt
	off     int64 // where the next read begins
	end     int64
	buf     []byte
	lo, hi  int // the part of buf that was read and not returned
	chunk   int // smallest buffer
	pending int // bytes of the unfinished line already searched
}

func newLineReader(r io.ReaderAt, from, to int64, buf []byte, chunk int) *lineReader {
	return &lineReader{r: r, off: from, end: to, buf: buf[:cap(buf)], chunk: chunk}
}

// next returns a line without its line feed, and its offset. The line is valid
// until the next call. At the end the error is io.EOF, or errUnfinished together
// with the bytes after the last line feed.
func (l *lineReader) next() (line []byte, at int64, err error) {
	for {
		at = l.off - int64(l.hi-l.lo)
		if i := bytes.IndexByte(l.buf[l.lo+l.pending:l.hi], '\n'); i >= 0 {
			line = l.buf[l.lo : l.lo+l.pending+i]
			l.lo, l.pending = l.lo+len(line)+1, 0
			return line, at, nil
		}
		l.pending = l.hi - l.lo
		if l.pending > maxLine {
			return nil, at, errTooLong
		}
		if l.off >= l.end {
			if l.pending == 0 {
				return nil, at, io.EOF
			}
			return l.buf[l.lo:l.hi], at, errUnfinished
		}
		if err := l.fill(); err != nil {
			return nil, at, err
		}
	}
}

// fill makes room in buf and reads once.
func (l *lineReader) fill() error {
	if need := max(l.chunk, 2*l.pending); len(l.buf) < need {
		grown := make([]byte, need)
		copy(grown, l.buf[l.lo:l.hi])
		l.buf = grown
	} else {
		copy(l.buf, l.buf[l.lo:l.hi])
	}
	l.lo, l.hi = 0, l.pending
	want := min(int64(len(l.buf)-l.hi), l.end-l.off)
	n, err := l.r.ReadAt(l.buf[l.hi:l.hi+int(want)], l.off)
	l.hi, l.off = l.hi+n, l.off+int64(n)
	if err != nil && int64(n) < want {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the file was truncated meanwhile
		}
		return err
	}
	return nil
}

// lookup looks for the event in the index and compares it with its line on disk.
// The outcome is zero for a new event. A line or an index that cannot be read is
// a fault: whether an event is new or known depends on it.
func (l *Ledger) lookup(c *claimed) Outcome {
	seqs, err := l.index.Find(c.Event)
	if err != nil {
		return l.unreadable(err)
	}
	for _, seq := range seqs {
		r, err := l.recordAt(seq)
		switch {
		case err != nil:
			return l.unreadable(err)
		case !bytes.Equal(r.id, c.id) || !bytes.Equal(r.source, c.source): // another event with the same hash
		case bytes.Equal(r.content, c.content):
			return Outcome{Seq: seq, Duplicate: true}
		default:
			return Outcome{Err: &ConflictError{Seq: seq}}
		}
	}
	return Outcome{}
}

func (l *Ledger) unreadable(err error) Outcome {
	fault := &FaultError{fmt.Errorf("audit log: %w", err)}
	l.fail(fault)
	return Outcome{Err: fault}
}

// recordAt reads an entry from disk.
func (l *Ledger) recordAt(seq int64) (record, error) {
	line, _, err := l.lineAt(seq)
	if err != nil {
		return record{}, fmt.Errorf("read entry %d of %s: %w", seq, l.cfg.Path, err)
	}
	r, err := readRecord(line)
	if err == nil && r.seq != seq {
		err = fmt.Errorf("entry %d found", r.seq)
	}
	if err != nil {
		return record{}, fmt.Errorf("read entry %d of %s: %w", seq, l.cfg.Path, err)
	}
	return r, nil
}

// lineAt reads from the mark before the entry on.
func (l *Ledger) lineAt(seq int64) (line []byte, at int64, err error) {
	r, err := l.readFrom(seq, 8<<10)
	if err != nil {
		return nil, 0, err
	}
	for n := (seq - 1) % index.MarkEvery; ; n-- {
		line, at, err = r.next()
		if err != nil || n == 0 {
			return line, at, err
		}
	}
}

// readFrom returns a reader that begins at the mark before the entry.
func (l *Ledger) readFrom(seq int64, chunk int) (*lineReader, error) {
	mark := (seq-1)/index.MarkEvery*index.MarkEvery + 1
	l.mu.Lock()
	at, size := int64(-1), l.size
	if mark > l.indexed && len(l.marks) > 0 {
		at = l.marks[(mark-l.marks[0].seq)/index.MarkEvery].at
	}
	l.mu.Unlock()
	if at < 0 {
		var err error
		if at, err = l.index.Mark(mark); err != nil {
			return nil, err
		}
	}
	return newLineReader(&l.segments, at, size, nil, chunk), nil
}

// A Place is where a complete line stands. It is valid for the life of the
// Ledger, since nothing that was acknowledged moves.
type Place struct {
	Seq    int64
	Offset int64
	Length int64 // without the line feed
}

// Text reads the line again, or a part of it, so that nobody has to hold it in memory.
func (l *Ledger) Text(_ context.Context, p Place) io.Reader {
	return io.NewSectionReader(&l.segments, p.Offset, p.Length)
}

// Place returns where an entry stands, or ErrNotFound.
func (l *Ledger) Place(_ context.Context, seq int64) (Place, error) {
	if seq < 1 || seq > l.Len() {
		return Place{}, ErrNotFound
	}
	line, at, err := l.lineAt(seq)
	if err != nil {
		return Place{}, fmt.Errorf("read audit log: %w", err)
	}
	return Place{Seq: seq, Offset: at, Length: int64(len(line))}, nil
}

// Lines calls yield with each line on disk whose number is above after, in
// order, until it returns false. The line has no line feed and is valid during
// the call only. Appends continue meanwhile; Lines does not read what they add.
func (l *Ledger) Lines(ctx context.Context, after int64, yield func(p Place, line []byte) bool) error {
	seq := max(after, 0) + 1
	if seq > l.Len() {
		return nil
	}
	r, err := l.readFrom(seq, 64<<10)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	for at := (seq-1)/index.MarkEvery*index.MarkEvery + 1; ; at++ {
		line, offset, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read audit log: %w", err)
		}
		if at < seq {
			continue
		}
		if at%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !yield(Place{Seq: at, Offset: offset, Length: int64(len(line))}, line) {
			return nil
		}
	}
}
