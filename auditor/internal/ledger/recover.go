package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/taskwire/taskwire/auditor/internal/index"
)

// Recovery is what Open found.
type Recovery struct {
	Entries     int64
	VersionGaps int64  // entries with a VersionGap
	Torn        *Torn  // nil when the log ended with a complete line
	Replayed    int64  // entries that the index did not have
	Rebuilt     string // why the index was made from the whole log, "" when it was not
}

// Torn is a last write that was not finished. No entry of it was acknowledged.
type Torn struct {
	Offset int64  // where the log was cut
	Bytes  int64  // how many bytes were cut off
	Kept   string // the file they were moved to
	Reason string // why they are not an entry
}

// load opens the index, reads the lines that it does not have, and cuts off an
// unfinished last write. No other goroutine has l yet.
//
// Lines are read in chunks, checked by one goroutine per processor, and added to
// the index in order.
func (l *Ledger) load(ctx context.Context, size int64) error {
	acked, err := readMark(l.mark.path)
	if err != nil {
		return err
	}
	if size < acked {
		bad := &badLine{byte: size, reason: "it ends here"}
		return l.belowMark(bad, acked)
	}
	l.size = size // the limit for recordAt while the index fills
	if err := l.loadIndex(size); err != nil {
		return err
	}
	l.checking.to = l.index.Head()
	bad, err := l.loadChunks(ctx, size)
	if err == nil {
		err = l.refuseRepeated()
	}
	if err != nil || bad == nil {
		return err
	}
	return l.cutTail(bad, size, acked)
}

// indexSuffix is the name of the index's folder, after the log's.
const indexSuffix = ".index"

// unsyncedIndex is set by tests.
var unsyncedIndex bool

// ofVolume reports whether err has to do with the volume and not with what is in
// the index: making that again would fail as well.
func ofVolume(err error) bool {
	return noRoom(err) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// loadIndex opens the index, or begins a new one when it is not of this log.
func (l *Ledger) loadIndex(size int64) error {
	dir := l.cfg.Path + indexSuffix
	_, err := os.Lstat(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	for again := false; ; again = true {
		l.index, err = index.Open(dir, index.Config{Unsynced: unsyncedIndex, HasRoom: func() bool { return hasRoom(dir) }, Changed: l.indexChanged})
		if err == nil {
			if l.versions, err = newVersions(l.index); err == nil {
				err = l.believe(l.index.Head(), size)
			}
			if err == nil {
				break
			}
			err = errors.Join(err, l.index.Close())
			l.index = nil
		}
		if again || ofVolume(err) {
			return err
		}
		l.recovered.Rebuilt = err.Error()
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	l.begun = missing || l.recovered.Rebuilt != ""
	if missing && size > 0 {
		l.recovered.Rebuilt = "there was none"
	}
	l.entries, l.gaps, l.indexed = l.index.Head().Seq, l.index.Head().Gaps, l.index.Head().Seq
	return nil
}

// believe returns an error unless the log has the last line of the index
// where the index says.
func (l *Ledger) believe(h index.Head, size int64) error {
	if h.Seq == 0 {
		return nil
	}
	if h.End > size || h.From < 0 || h.End-h.From > maxLine+1 || h.End <= h.From {
		return fmt.Errorf("it reaches to byte %d, the log has %d", h.End, size)
	}
	line := make([]byte, h.End-h.From)
	if n, err := l.segments.ReadAt(line, h.From); n < len(line) {
		return fmt.Errorf("read %s: %w", l.cfg.Path, err)
	}
	if line[len(line)-1] != '\n' || sha256.Sum256(line[:len(line)-1]) != h.Line {
		return fmt.Errorf("the log has another line at byte %d", h.From)
	}
	return nil
}

// abandonIndex closes the index of a log that was not opened because of why. One
// that was begun for it is removed, so that a file that is no log of this package
// gets no folder beside it.
func (l *Ledger) abandonIndex(why error) error {
	if l.index == nil {
		return nil
	}
	err := l.index.Close()
	var damage *DamageError
	if l.begun && (errors.As(why, &damage) || errors.Is(why, ErrOriginal)) {
		err = errors.Join(err, os.RemoveAll(l.cfg.Path+indexSuffix))
	}
	return err
}

// belowMark: a person has to restore the log, or to accept the loss.
func (l *Ledger) belowMark(bad *badLine, acked int64) error {
	bad.reason += fmt.Sprintf("; %d bytes of it were acknowledged; restore it, or remove %s to accept the loss", acked, l.mark.path)
	return l.damage(bad.byte, bad.reason)
}

// loadChunk is how much of the log one goroutine checks at a time. Chunks end
// with a line.
const loadChunk = 1 << 20

// A chunk is a run of lines and what was read from them.
type chunk struct {
	at    int64
	lines []byte
	rest  string // why reading ends after these lines, usually ""
	found []foundLine
	bad   *badLine
	done  chan struct{}
}

// foundLine is a line as the index needs it.
type foundLine struct {
	index.Entry
	text       []byte
	id, source []byte
}

// badLine is the first line that is not an entry.
type badLine struct {
	at     int64 // offset of the line
	byte   int64 // offset of the mistake
	reason string
	whole  bool // it is a well-formed entry in the wrong place
}

func (l *Ledger) loadChunks(ctx context.Context, size int64) (*badLine, error) {
	ctx, cancel := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	work := make(chan *chunk)
	order := make(chan *chunk, workers)
	in := &intake{l: l, whole: l.begun, waiting: map[index.Hash]bool{}}
	var readErr error
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // runs before Wait, so that the reader ends after an early return
	wg.Go(func() {
		defer close(order)
		defer close(work)
		readErr = l.readChunks(ctx, size, work, order)
	})
	for range workers {
		wg.Go(func() {
			for c := range work {
				l.parse(c)
				close(c.done)
			}
		})
	}
	for c := range order {
		<-c.done
		for i := range c.found {
			if bad, err := in.take(&c.found[i]); bad != nil || err != nil {
				return bad, errors.Join(err, in.apply())
			}
		}
		if err := in.apply(); c.bad != nil || err != nil {
			return c.bad, err
		}
		if l.cfg.OnIndex != nil {
			l.cfg.OnIndex(l.index.Head().End, size)
		}
	}
	return nil, readErr
}

// readChunks splits the log into chunks and sends each to a worker and, in order,
// to loadChunks.
func (l *Ledger) readChunks(ctx context.Context, size int64, work, order chan<- *chunk) error {
	var carry []byte
	for off := l.index.Head().End; off < size; {
		n := min(loadChunk, size-off)
		buf := make([]byte, len(carry)+int(n))
		copy(buf, carry)
		if got, err := l.segments.ReadAt(buf[len(carry):], off); int64(got) < n {
			return fmt.Errorf("read %s: %w", l.cfg.Path, err)
		}
		c := &chunk{at: off - int64(len(carry)), lines: buf, done: make(chan struct{})}
		off += n
		switch end := bytes.LastIndexByte(buf, '\n') + 1; {
		case off == size && end < len(buf):
			c.rest = errUnfinished.Error()
		case end == 0 && len(buf) > maxLine:
			c.rest = errTooLong.Error()
		case end == 0:
			carry = buf
			continue
		default:
			c.lines, carry = buf[:end], buf[end:]
		}
		select {
		case work <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case order <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.rest != "" {
			return nil
		}
	}
	return nil
}

// parse reads the chunk's lines. It runs on a worker and changes only the chunk.
func (l *Ledger) parse(c *chunk) {
	c.found = make([]foundLine, 0, len(c.lines)/400+1)
	for at, b := c.at, c.lines; len(b) > 0; {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			c.bad = &badLine{at: at, byte: at, reason: c.rest}
			return
		}
		r, err := readRecord(b[:i])
		var mistake *LineError
		if errors.As(err, &mistake) {
			c.bad = &badLine{at: at, byte: at + int64(mistake.Byte), reason: mistake.Reason}
			return
		}
		version, hasVersion := r.taskVersion()
		f := foundLine{Entry: l.index.Identify(r.source, r.id, r.task(), version, hasVersion), text: b[:i], id: r.id, source: r.source}
		f.Seq, f.At = r.seq, at
		c.found = append(c.found, f)
		at, b = at+int64(i)+1, b[i+1:]
	}
}

// intake adds lines to the index, many at a time.
type intake struct {
	l       *Ledger
	whole   bool // all of the log is read: refuseRepeated looks for events that come again
	entries []index.Entry
	waiting map[index.Hash]bool // events of entries
	last    *foundLine
}

// take adds a line, if it has the next number and the event is new.
func (in *intake) take(f *foundLine) (*badLine, error) {
	l := in.l
	if f.Seq != l.entries+1 {
		return &badLine{at: f.At, byte: f.At, whole: true, reason: fmt.Sprintf("entry %d follows entry %d", f.Seq, l.entries)}, nil
	}
	seq, err := in.before(f)
	if err != nil {
		return nil, err
	}
	if seq != 0 {
		return &badLine{at: f.At, byte: f.At, whole: true, reason: fmt.Sprintf("entry %d is the event of entry %d again", f.Seq, seq)}, nil
	}
	if f.Versioned {
		gap, err := l.versions.note(&f.Entry)
		if err != nil {
			return nil, err
		}
		if gap != nil {
			l.gaps++
		}
	}
	l.note(f.Seq, f.At)
	in.entries, in.waiting[f.Event], in.last = append(in.entries, f.Entry), true, f
	return nil, nil
}

// refuseRepeated looks for events that the log has twice, after all of it was read
// into a new index: one pass over that costs less than a look for each line.
func (l *Ledger) refuseRepeated() error {
	if !l.begun {
		return nil
	}
	var first *DamageError
	var bad error
	err := l.index.Repeated(func(seqs []int64) bool {
		for i, seq := range seqs {
			for _, earlier := range seqs[:i] {
				damage, err := l.repeats(seq, earlier)
				if bad = err; bad != nil {
					return false
				}
				if damage != nil && (first == nil || damage.Byte < first.Byte) {
					first = damage
				}
			}
		}
		return true
	})
	if err = errors.Join(err, bad); err == nil && first != nil {
		err = first
	}
	return err
}

// repeats returns the damage when two entries are the same event.
func (l *Ledger) repeats(seq, earlier int64) (*DamageError, error) {
	a, err := l.recordAt(earlier)
	if err != nil {
		return nil, err
	}
	b, err := l.recordAt(seq)
	if err != nil || !bytes.Equal(a.id, b.id) || !bytes.Equal(a.source, b.source) {
		return nil, err
	}
	_, at, err := l.lineAt(seq)
	if err != nil {
		return nil, err
	}
	return l.damage(at, fmt.Sprintf("entry %d is the event of entry %d again", seq, earlier)), nil
}

// before is the number of an earlier entry of the same event, usually 0.
func (in *intake) before(f *foundLine) (int64, error) {
	if in.whole {
		return 0, nil
	}
	if in.waiting[f.Event] {
		if err := in.apply(); err != nil {
			return 0, err
		}
	}
	seqs, err := in.l.index.Find(f.Event)
	if err != nil {
		return 0, err
	}
	for _, seq := range seqs {
		if r, err := in.l.recordAt(seq); err != nil || bytes.Equal(r.id, f.id) && bytes.Equal(r.source, f.source) {
			return seq, err
		}
	}
	return 0, nil
}

// apply gives the index what was taken.
func (in *intake) apply() error {
	if len(in.entries) == 0 {
		return nil
	}
	end := in.last.At + int64(len(in.last.text)) + 1
	err := in.l.index.Apply(in.entries, index.Head{Seq: in.last.Seq, Gaps: in.l.gaps, From: in.last.At, End: end, Line: sha256.Sum256(in.last.text)})
	if err != nil {
		return err
	}
	in.l.recovered.Replayed += int64(len(in.entries))
	in.l.versions.forget(in.last.Seq)
	in.l.forgetMarks(in.last.Seq)
	in.entries = in.entries[:0]
	clear(in.waiting)
	return nil
}

// cutTail decides whether the bytes from the bad line on are a last write that
// was not finished, and if so moves them out of the log.
//
// They are one only if nothing well-formed follows: an acknowledged batch was on
// disk before the next write began, so a complete entry after the bad line means
// that acknowledged bytes changed. For the same reason a last entry that is
// well-formed but in the wrong place is damage, and so is a tail that begins below
// the mark, or is longer than any write, unless it is the zeros that a file
// system may leave.
//
// The order is: copy, fsync the copy, fsync the directory, cut, fsync the log.
// A kill in between leaves the tail in the log, and the next start repeats this.
func (l *Ledger) cutTail(bad *badLine, size, acked int64) error {
	damage := l.damage(bad.byte, bad.reason)
	if bad.whole || bad.at < l.base {
		return damage
	}
	if err := l.refuseOriginal(size); err != nil {
		return err
	}
	if next, err := l.entryAfter(bad.at, size); err != nil || next > 0 {
		if err == nil {
			damage.Reason += fmt.Sprintf("; the complete entry %d follows it", next)
			return damage
		}
		return err
	}
	if bad.at < acked {
		return l.belowMark(bad, acked)
	}
	zeros, err := l.onlyZeros(bad.at, size)
	if err != nil {
		return err
	}
	if !zeros && size-bad.at > int64(l.cfg.MaxPending)+maxLine {
		damage.Reason += fmt.Sprintf("; %d bytes are too many for an unfinished write", size-bad.at)
		return damage
	}
	if bad.at == 0 && !zeros {
		if err := l.beginsLikeOurs(size); err != nil {
			damage.Reason = err.Error()
			return damage
		}
	}
	now := l.cfg.Now().UTC()
	kept := fmt.Sprintf("%s.torn-%d-%s", l.cfg.Path, bad.at-l.base, now.Format("20060102T150405.000000000Z"))
	if err := keepAside(&l.segments, bad.at, size, kept); err != nil {
		return fmt.Errorf("keep the unfinished end of %s: %w", l.cfg.Path, err)
	}
	if err := l.file.Truncate(bad.at - l.base); err != nil {
		return fmt.Errorf("cut %s to %d bytes: %w", l.cfg.Path, bad.at-l.base, err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("fsync %s: %w", l.cfg.Path, err)
	}
	l.size = bad.at
	l.recovered.Torn = &Torn{Offset: bad.at - l.base, Bytes: size - bad.at, Kept: kept, Reason: bad.reason}
	return nil
}

// entryAfter looks for a complete entry after the bad line. It returns its
// number, 0 when there is none.
func (l *Ledger) entryAfter(bad, size int64) (int64, error) {
	r := newLineReader(&l.segments, bad, size, nil, 1<<20)
	for {
		line, _, err := r.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errUnfinished):
			return 0, nil
		case errors.Is(err, errTooLong):
			r.lo, r.pending = r.hi, 0 // too long for an entry
			continue
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", l.cfg.Path, err)
		}
		if seq := entryIn(line); seq > 0 {
			return seq, nil
		}
	}
}

// entryIn looks for a complete entry at the end of a line: the bad line itself
// may contain one, when the line feed before it was damaged.
func entryIn(line []byte) int64 {
	for {
		i := bytes.Index(line, []byte(`{"seq":`))
		if i < 0 {
			return 0
		}
		if r, err := readRecord(line[i:]); err == nil {
			return r.seq
		}
		line = line[i+1:]
	}
}

func (l *Ledger) onlyZeros(from, to int64) (bool, error) {
	buf := make([]byte, 1<<20)
	for from < to {
		n, err := l.segments.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		if n == 0 && err != nil {
			return false, fmt.Errorf("read %s: %w", l.cfg.Path, err)
		}
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return false, nil
		}
		from += int64(n)
	}
	return true, nil
}

// beginsLikeOurs keeps a file that is not an audit log from being mistaken for
// one whose first write was not finished, and emptied.
func (l *Ledger) beginsLikeOurs(size int64) error {
	const first = `{"seq":1,"event_id":"`
	begin, err := l.begin(len(first), size)
	if err != nil {
		return err
	}
	if begin != first[:len(begin)] {
		return errors.New("the file does not begin like an audit log of this program")
	}
	return nil
}

// refuseOriginal returns ErrOriginal for a log of the original system: its lines
// begin with event_id, they have no number.
func (l *Ledger) refuseOriginal(size int64) error {
	const first = `{"event_id":`
	begin, err := l.begin(len(first), size)
	if err == nil && begin == first {
		err = fmt.Errorf("%s is %w", l.cfg.Path, ErrOriginal)
	}
	return err
}

// begin returns up to n bytes of the beginning of the log.
func (l *Ledger) begin(n int, size int64) (string, error) {
	buf := make([]byte, min(int64(n), size))
	if _, err := l.segments.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read %s: %w", l.cfg.Path, err)
	}
	return string(buf), nil
}
