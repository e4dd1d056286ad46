package fetch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"github.com/taskwire/taskwire/internal/event"
)

// Layout of a record batch, Kafka's format 2.
const (
	atLength     = 8
	atMagic      = 16
	atChecksum   = 17
	atSummed     = 21 // the checksum covers the rest from here
	atAttributes = 21
	atLastDelta  = 23
	atFirstTime  = 27
	atMaxTime    = 35
	atCount      = 57
	headerSize   = 61

	codecBits     = 0x07
	logAppendTime = 0x08
	controlBit    = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is one record of a partition. Its bytes belong to the caller.
type Record struct {
	Offset int64
	event.Record
}

// TooLargeError is a record that is larger than the reader's limit.
type TooLargeError struct {
	Offset int64
	Size   int64 // bytes
	Limit  int   // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the record at offset %d has %d bytes, more than MEMORY_BUDGET allows for one record (%d)", e.Offset, e.Size, e.Limit)
}

// Records reads an answer's records one after the other. It is for one goroutine.
//
// While a batch is being read its decompressor is open, which takes some
// megabytes. Pause gives that back; the next Read begins the batch again and
// passes over what it has read.
type Records struct {
	rest  []byte // batches not begun
	limit int    // bytes of one record
	next  int64

	batch []byte // the one being read, with its header; nil between two
	read  int    // records of it
	open  *bufio.Reader
	codec io.Closer // its decompressor; nil when it is not compressed
}

// Read returns the records of batches from offset on, none above limit bytes.
func Read(batches []byte, offset int64, limit int) *Records {
	return &Records{rest: batches, next: offset, limit: limit}
}

// Next is the offset to go on from: after the last record that Read returned,
// and after everything that holds no record.
func (r *Records) Next() int64 { return r.next }

// Read returns the next record, io.EOF after the last one. A batch that came
// only in part, as brokers send at the end of an answer, counts as the end.
func (r *Records) Read() (Record, error) {
	for {
		if r.batch == nil {
			if err := r.begin(); err != nil {
				return Record{}, err
			}
			continue
		}
		if r.read == count(r.batch) {
			r.end()
			continue
		}
		rec, err := r.record()
		if err != nil {
			return Record{}, err
		}
		if rec.Offset < r.next {
			continue // a batch may begin before the offset asked for
		}
		r.next = rec.Offset + 1
		return rec, nil
	}
}

// Pause gives back what reading takes but the batches themselves.
func (r *Records) Pause() {
	r.open = nil
	if r.codec != nil {
		_ = r.codec.Close() // it gives its memory back; a read error would have been returned
		r.codec = nil
	}
}

// begin takes the next batch that holds records.
func (r *Records) begin() error {
	for len(r.rest) >= headerSize {
		size := int64(binary.BigEndian.Uint32(r.rest[atLength:])) + atLength + 4
		if size < headerSize || r.rest[atMagic] != 2 {
			return fmt.Errorf("the batch at offset %d has format %d: only format 2 (Apache Kafka 0.11 and newer) can be read", offset(r.rest), r.rest[atMagic])
		}
		if size > int64(len(r.rest)) {
			return io.EOF
		}
		b := r.rest[:size]
		r.rest = r.rest[size:]
		if crc32.Checksum(b[atSummed:], castagnoli) != binary.BigEndian.Uint32(b[atChecksum:]) {
			return fmt.Errorf("the batch at offset %d does not match its checksum", offset(b))
		}
		if attributes(b)&controlBit == 0 {
			r.batch, r.read = b, 0
			return nil
		}
		r.next = max(r.next, last(b)+1) // a transaction's marker is no record
	}
	return io.EOF
}

// end leaves the batch. Compaction may have removed its last records, so the
// next offset follows from the batch, not from a record.
func (r *Records) end() {
	r.next = max(r.next, last(r.batch)+1)
	r.batch = nil
	r.Pause()
}

// record reads the next record of the batch, which is opened if it is not.
func (r *Records) record() (Record, error) {
	if r.open == nil {
		if err := r.reopen(); err != nil {
			return Record{}, err
		}
	}
	size, err := binary.ReadVarint(r.open)
	if err != nil {
		return Record{}, r.broken(err)
	}
	if size < 0 || size > int64(r.limit) {
		return Record{}, r.tooLarge(size)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r.open, raw); err != nil {
		return Record{}, r.broken(err)
	}
	rec, err := parse(raw, r.batch)
	if err != nil {
		return Record{}, r.broken(err)
	}
	r.read++
	return rec, nil
}

// tooLarge finds the offset of a record that is not read: it is the fourth
// number of the record, which all fit into what is buffered.
func (r *Records) tooLarge(size int64) error {
	if size < 0 {
		return r.broken(errors.New("negative size"))
	}
	head, _ := r.open.Peek(24)
	p := parser{b: head}
	p.skip(1)
	p.varint()
	at := offset(r.batch) + p.varint()
	if p.err != nil {
		return r.broken(p.err)
	}
	return &TooLargeError{Offset: at, Size: size, Limit: r.limit}
}

// reopen begins the batch and passes over the records that were read.
func (r *Records) reopen() error {
	src := io.Reader(bytes.NewReader(r.batch[headerSize:]))
	if id := attributes(r.batch) & codecBits; id != 0 {
		z, err := decompress(compress.Compression(id), src)
		if err != nil {
			return r.broken(err)
		}
		src, r.codec = z, z
	}
	r.open = bufio.NewReaderSize(src, 4<<10)
	for range r.read {
		size, err := binary.ReadVarint(r.open)
		if err != nil {
			return r.broken(err)
		}
		if _, err := r.open.Discard(int(size)); err != nil {
			return r.broken(err)
		}
	}
	return nil
}

func (r *Records) broken(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // io.EOF is the end of the answer
	}
	return fmt.Errorf("read record %d of the batch at offset %d: %w", r.read+1, offset(r.batch), err)
}

func offset(b []byte) int64     { return int64(binary.BigEndian.Uint64(b)) }
func attributes(b []byte) int16 { return int16(binary.BigEndian.Uint16(b[atAttributes:])) }
func last(b []byte) int64       { return offset(b) + int64(binary.BigEndian.Uint32(b[atLastDelta:])) }
func count(b []byte) int        { return int(int32(binary.BigEndian.Uint32(b[atCount:]))) }

// parse takes a record apart. Key, value and headers lie in raw.
func parse(raw, batch []byte) (Record, error) {
	p := parser{b: raw}
	p.skip(1) // attributes: none are defined
	at := binary.BigEndian.Uint64(batch[atFirstTime:])
	delta := p.varint()
	rec := Record{Record: event.Record{Time: time.UnixMilli(int64(at) + delta)}}
	if attributes(batch)&logAppendTime != 0 {
		rec.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(batch[atMaxTime:])))
	}
	rec.Offset = offset(batch) + p.varint()
	rec.Key = p.bytes()
	rec.Value = p.bytes()
	n := p.varint()
	if p.err == nil && (n < 0 || n > int64(len(p.b))) {
		p.err = errTruncated
	}
	if n > 0 && p.err == nil {
		rec.Headers = make([]event.Header, n)
		for i := range rec.Headers {
			rec.Headers[i] = event.Header{Key: p.name(), Value: p.bytes()}
		}
	}
	return rec, p.err
}

var errTruncated = errors.New("a length exceeds the record")

// parser reads a record's members up to its first error.
type parser struct {
	b   []byte
	err error
}

func (p *parser) skip(n int) {
	if n > len(p.b) {
		p.err, n = errTruncated, len(p.b)
	}
	p.b = p.b[n:]
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.err = errTruncated
		return 0
	}
	p.b = p.b[n:]
	return v
}

// name allocates nothing for the header that nearly every record has.
func (p *parser) name() string {
	const usual = "content-type"
	b := p.bytes()
	if string(b) == usual {
		return usual
	}
	return string(b)
}

// bytes returns nil for a negative length.
func (p *parser) bytes() []byte {
	n := p.varint()
	if p.err != nil || n < 0 {
		return nil
	}
	if n > int64(len(p.b)) {
		p.err = errTruncated
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}
