package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// lookup finds the event in the index and compares it with its line on disk. seq
// is 0 when the log does not have it. mu is held.
func (l *Ledger) lookup(c *claimed) (seq int64, same bool, err error) {
	l.index.candidates(c.hash, func(s int64) bool {
		var r record
		if r, err = l.recordAt(s); err != nil {
			return false
		}
		if string(r.id) != c.key.id || string(r.source) != c.key.source {
			return true // another event with the same fingerprint
		}
		seq, same = s, bytes.Equal(r.content, c.content)
		return false
	})
	return seq, same, err
}

// recordAt reads the entry from disk into scratch. A line that could be read
// before and cannot now is a fault: whether an event is new or known depends on
// it. mu is held.
func (l *Ledger) recordAt(seq int64) (record, error) {
	line, err := l.lineAt(seq)
	var r record
	if err == nil {
		r, err = readRecord(line)
	}
	if err == nil && r.seq != seq {
		err = fmt.Errorf("entry %d found", r.seq)
	}
	if err != nil {
		fault := &FaultError{fmt.Errorf("read entry %d of audit log %s: %w", seq, l.cfg.Path, err)}
		if l.fault == nil {
			l.fault = fault
			close(l.failed)
		}
		return record{}, fault
	}
	return r, nil
}

// lineAt reads from the mark before the entry. mu is held.
func (l *Ledger) lineAt(seq int64) ([]byte, error) {
	from, to := l.span(seq)
	r := newLineReader(l.file, from, to, l.scratch, 32<<10)
	defer func() {
		if len(r.buf) <= 1<<20 {
			l.scratch = r.buf
		}
	}()
	for n := (seq - 1) % markEvery; ; n-- {
		line, _, err := r.next()
		if err != nil || n == 0 {
			return line, err
		}
	}
}

// span returns the offsets between which the marks place the entry. mu is held.
func (l *Ledger) span(seq int64) (from, to int64) {
	m := int((seq - 1) / markEvery)
	from, to = l.marks[m], l.size
	if m+1 < len(l.marks) {
		to = l.marks[m+1]
	}
	return from, to
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
	return io.NewSectionReader(l.file, p.Offset, p.Length)
}

// Place returns where an entry stands, or ErrNotFound.
func (l *Ledger) Place(ctx context.Context, seq int64) (found Place, err error) {
	err = l.Lines(ctx, seq-1, func(p Place, _ []byte) bool {
		found = p
		return false
	})
	if err == nil && found.Seq == 0 || seq < 1 {
		return Place{}, ErrNotFound
	}
	return found, err
}

// Lines calls yield with each line on disk whose number is above after, in
// order, until it returns false. The line has no line feed and is valid during
// the call only. Appends continue meanwhile; Lines does not read what they add.
func (l *Ledger) Lines(ctx context.Context, after int64, yield func(p Place, line []byte) bool) error {
	seq := max(after, 0) + 1
	l.mu.Lock()
	if seq > l.entries {
		l.mu.Unlock()
		return nil
	}
	from, _ := l.span(seq)
	to := l.size
	l.mu.Unlock()

	at := (seq-1)/markEvery*markEvery + 1
	r := newLineReader(l.file, from, to, nil, 64<<10)
	for ; ; at++ {
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
