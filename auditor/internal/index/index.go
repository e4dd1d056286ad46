// Package index finds entries of the auditor's log on disk: by source and id, by
// task, and by number. It is derived from the log and can be made again from it at
// any time.
package index

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

// Index holds nothing that the log does not, so it is written without a log and
// an fsync of its own: after a crash it is some earlier state of itself, and says
// how far in the log that reaches (Head). The rest is read from the log at the
// next start.
//
// Its keys:
//
//	m                          -> Head
//	k Hash(source, id)         -> number of the entry, or of all with this hash
//	t Hash(task) number        -> nothing
//	v Hash(source, task)       -> highest version of the task
//	p number                   -> offset of its line; for the entries 1, 17, 33 ...
//
// A hash names candidates only: the caller compares them with their lines, so
// de-duplication is exact.
//
// Its methods may be called from any goroutine, but only one may Apply at a time.
type Index struct {
	db    *pebble.DB
	dir   string
	store *store
	salt  [16]byte
	head  Head // of what was applied; owned by whoever applies

	mu     sync.Mutex
	recent *Recent[struct{}] // events in the index

	sinceFlush int
	flushed    <-chan struct{} // closed when the flush that was begun is over; nil before the first
}

// Head says what the index was made from. An index whose head is not found in
// the log is another log's, or the log was cut: it is not to be believed.
type Head struct {
	Seq  int64    // the index holds the entries 1 to Seq
	Gaps int64    // version gaps among them
	From int64    // where the line of entry Seq begins
	End  int64    // where the next line begins
	Line [32]byte // SHA-256 of the line of entry Seq, without its line feed
}

// MarkEvery is the distance between the entries whose offset is kept: finding an
// entry reads at most this many lines.
const MarkEvery = 16

// Hash is a salted hash of what identifies an event, a task, or a task of a
// source. Ids that begin with their time (UUIDv7) keep it in the hash: the keys
// of events that arrive together are neighbours, and looking for a new id reads
// what was written just now instead of all of the disk. Other hashes begin with
// noTime, so that the latest time in the index is found at once.
type Hash [12]byte

// noTime begins the times of the year 10889.
const noTime = 0xff

// recentEvents is how many events the index knows without a look at the disk: those
// that arrive out of order by less than that are known to be new, or not. They
// take 1 MiB.
const recentEvents = 1 << 14

// Entry is what the index holds of an entry.
type Entry struct {
	Seq, At   int64
	Event     Hash
	Task      Hash // zero when it is about no task
	Chain     Hash // of source and task; zero when it has no version
	Version   int64
	Tasked    bool
	Versioned bool
}

// Open opens or creates the index in the folder dir, whose parent exists.
func Open(dir string, cfg Config) (*Index, error) {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !info.IsDir() || info.Mode().Perm()&0o002 != 0:
		return nil, fmt.Errorf("%s is no folder, or every user may write to it: remove it, it is made again from the log", dir)
	}
	s := newStore(cfg)
	db, err := s.open(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	x := &Index{db: db, dir: dir, store: s}
	if err = x.readHead(); err == nil {
		var latest Hash
		latest, err = x.latest('k')
		x.recent = NewRecent[struct{}](recentEvents, latest)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", dir, err), x.Close())
	}
	return x, nil
}

// latest is the latest hash with a time among the keys of a kind.
func (x *Index) latest(kind byte) (h Hash, err error) {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind, noTime}})
	if err != nil {
		return h, err
	}
	if it.Last() {
		copy(h[:], it.Key()[1:])
	}
	return h, errors.Join(it.Error(), it.Close())
}

// LatestChain is the latest of the hashes of a task of a source, zero for none.
func (x *Index) LatestChain() (Hash, error) {
	h, err := x.latest('v')
	if err != nil {
		err = x.Broken(err)
	}
	return h, err
}

// Head returns how far the index reaches. It is for the goroutine that applies.
func (x *Index) Head() Head { return x.head }

var headKey = []byte("m")

const (
	headFormat = 2
	headLen    = 1 + 16 + 4*8 + 32
)

func (x *Index) readHead() error {
	v, done, err := x.db.Get(headKey)
	if errors.Is(err, pebble.ErrNotFound) {
		_, err := rand.Read(x.salt[:])
		return err
	}
	if err != nil {
		return err
	}
	defer done.Close()
	if len(v) != headLen || v[0] != headFormat {
		return errors.New("it has another format")
	}
	copy(x.salt[:], v[1:])
	n := func(i int) int64 { return int64(binary.BigEndian.Uint64(v[17+8*i:])) }
	x.head = Head{Seq: n(0), Gaps: n(1), From: n(2), End: n(3), Line: [32]byte(v[headLen-32:])}
	return nil
}

func (x *Index) appendHead(b []byte, h Head) []byte {
	b = append(append(b, headFormat), x.salt[:]...)
	for _, n := range [...]int64{h.Seq, h.Gaps, h.From, h.End} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, h.Line[:]...)
}

// Identify returns the hashes of an event. Source, id and task are as a line
// encodes them; task is empty for an event that is about none.
func (x *Index) Identify(source, id, task []byte, version int64, hasVersion bool) Entry {
	e := Entry{Event: x.HashEvent(source, id), Tasked: len(task) > 0, Version: version, Versioned: hasVersion && len(task) > 0}
	if e.Tasked {
		e.Task = x.HashTask(task)
	}
	if e.Versioned {
		e.Chain = x.hash(source, task)
	}
	return e
}

// HashEvent takes source and id as a line encodes them.
func (x *Index) HashEvent(source, id []byte) Hash { return x.hash(source, id) }

// HashTask takes the id as a line encodes it.
func (x *Index) HashTask(id []byte) Hash { return x.hash(nil, id) }

// hash is salted, so that nobody can prepare ids whose lines have to be compared.
func (x *Index) hash(source, id []byte) (h Hash) {
	var buf [512]byte
	sum := sha256.Sum256(append(append(append(buf[:0], x.salt[:]...), source...), id...))
	copy(h[:], sum[:])
	if at, ok := timeOf(id); ok {
		copy(h[:6], at[:])
	} else {
		h[0] = noTime
	}
	return h
}

// timeOf returns the time at the beginning of a UUIDv7 in quotes.
func timeOf(id []byte) (at [6]byte, ok bool) {
	if len(id) != 38 || id[9] != '-' || id[14] != '-' || id[15] != '7' || id[19] != '-' || id[24] != '-' {
		return at, false
	}
	digits := append(append(make([]byte, 0, 12), id[1:9]...), id[10:14]...)
	_, err := hex.Decode(at[:], digits)
	return at, err == nil && at[0] != noTime
}

// Find returns the numbers of the entries that may hold the event, none for most.
func (x *Index) Find(event Hash) ([]int64, error) {
	x.mu.Lock()
	_, _, fresh := x.recent.Get(event)
	x.mu.Unlock()
	if fresh {
		return nil, nil
	}
	key := append(append(make([]byte, 0, 13), 'k'), event[:]...)
	v, done, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, x.Broken(err)
	}
	defer done.Close()
	return numbers(v), nil
}

func numbers(v []byte) (seqs []int64) {
	for ; len(v) >= 8; v = v[8:] {
		seqs = append(seqs, int64(binary.BigEndian.Uint64(v)))
	}
	slices.Sort(seqs)
	return slices.Compact(seqs)
}

// Repeated calls yield with the numbers of entries that have the same hash of
// source and id, until it returns false.
func (x *Index) Repeated(yield func(seqs []int64) bool) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{'k'}, UpperBound: []byte{'k' + 1}})
	if err != nil {
		return x.Broken(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, verr := it.ValueAndErr()
		if err = verr; err != nil || len(v) > 8 && !yield(numbers(v)) {
			break
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return x.Broken(err)
	}
	return nil
}

// Version returns the highest version of a task of a source, 0 for none.
func (x *Index) Version(chain Hash) (int64, error) { return x.number('v', chain[:]) }

// Mark returns the offset of an entry whose number is 1 modulo MarkEvery.
func (x *Index) Mark(seq int64) (int64, error) {
	at, err := x.number('p', binary.BigEndian.AppendUint64(nil, uint64(seq)))
	if err == nil && at == 0 && seq != 1 {
		err = x.Broken(fmt.Errorf("entry %d is missing", seq))
	}
	return at, err
}

func (x *Index) number(kind byte, key []byte) (int64, error) {
	v, done, err := x.db.Get(append(append(make([]byte, 0, 13), kind), key...))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, x.Broken(err)
	}
	defer done.Close()
	if len(v) != 8 {
		return 0, x.Broken(errors.New("a value has another length"))
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

// OfTask calls yield with the number of each entry above after that may be about
// the task, in order, until it returns false.
func (x *Index) OfTask(task Hash, after int64, yield func(seq int64) bool) error {
	lower := append([]byte{'t'}, task[:]...)
	upper := binary.BigEndian.AppendUint64(bytes.Clone(lower), 1<<63)
	lower = binary.BigEndian.AppendUint64(lower, uint64(max(after, 0)+1))
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return x.Broken(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if !yield(int64(binary.BigEndian.Uint64(it.Key()[13:]))) {
			break
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return x.Broken(err)
	}
	return nil
}

// Apply adds entries and moves the head, in one step. It waits while the disk is
// full or the store is behind; ErrStopped ends that.
func (x *Index) Apply(entries []Entry, h Head) error {
	b := x.db.NewBatch()
	defer b.Close()
	var err error
	for i := range entries {
		err = errors.Join(err, put(b, &entries[i]))
	}
	err = errors.Join(err, b.Set(headKey, x.appendHead(nil, h), nil))
	if err == nil {
		err = x.pace(b.Len())
	}
	if err == nil {
		err = x.db.Apply(b, pebble.NoSync)
	}
	if err != nil {
		return x.Broken(err)
	}
	x.head = h
	x.remember(entries)
	return nil
}

// remember comes after the entries are in the store: between the two they are
// looked for there, and nobody relies on finding them before Apply returns.
func (x *Index) remember(entries []Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range entries {
		x.recent.Put(entries[i].Event, struct{}{})
		if x.recent.Due() {
			x.recent.Rotate()
		}
	}
}

func put(b *pebble.Batch, e *Entry) error {
	var buf [21]byte
	key := func(kind byte, h *Hash) []byte { return append(append(buf[:0], kind), h[:]...) }
	var value [8]byte
	number := func(n int64) []byte {
		binary.BigEndian.PutUint64(value[:], uint64(n))
		return value[:]
	}
	// Numbers of one key are strung together: no need to look whether there are some.
	err := b.Merge(key('k', &e.Event), number(e.Seq), nil)
	if e.Tasked {
		err = errors.Join(err, b.Set(binary.BigEndian.AppendUint64(key('t', &e.Task), uint64(e.Seq)), nil, nil))
	}
	if e.Versioned {
		err = errors.Join(err, b.Set(key('v', &e.Chain), number(e.Version), nil))
	}
	if (e.Seq-1)%MarkEvery == 0 {
		err = errors.Join(err, b.Set(binary.BigEndian.AppendUint64(append(buf[:0], 'p'), uint64(e.Seq)), number(e.At), nil))
	}
	return err
}

// pace begins a flush for every flushEvery bytes, and waits for the one before:
// the store itself would let its writer wait for a full disk without end.
func (x *Index) pace(n int) error {
	if x.sinceFlush += n; x.sinceFlush < flushEvery {
		return nil
	}
	if err := x.store.await(x.flushed); err != nil {
		return err
	}
	if err := x.store.awaitCompaction(x.db); err != nil {
		return err
	}
	flushed, err := x.db.AsyncFlush()
	x.flushed, x.sinceFlush = flushed, n
	return err
}

// Broken notes that the index cannot be believed, so that Close removes it, and
// returns the error to report.
func (x *Index) Broken(err error) error {
	x.store.fail(err)
	return fmt.Errorf("index %s: %w", x.dir, err)
}

// Failure is why the index cannot be believed or written any more, or nil.
func (x *Index) Failure() error { return x.store.failure() }

// Full reports whether the index waits for room on the disk.
func (x *Index) Full() bool { return x.store.full() }

// Stop ends every wait for room.
func (x *Index) Stop() { x.store.stop() }

// Close flushes the index, so that the next start has nothing to read again, and
// removes it when it is broken.
func (x *Index) Close() error {
	if x.store.failure() == nil {
		if flushed, err := x.db.AsyncFlush(); err == nil {
			_ = x.store.await(flushed) // what is lost is read again
		}
	}
	x.store.stop()
	err := x.db.Close()
	x.store.cache.Unref()
	if x.store.failure() != nil {
		return os.RemoveAll(x.dir)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return nil // an earlier state is on disk
	}
	return err
}
