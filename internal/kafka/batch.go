package kafka

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"slices"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// Offsets within a batch in Kafka's format 2, counted from after the length of
// the record set, which comes first on the wire.
const (
	prefix = 4 // length of the record set

	atLength    = 8
	atMagic     = 16
	atChecksum  = 17
	atSummed    = 21 // the checksum covers everything from here
	atLastDelta = 23
	atFirstTime = 27
	atMaxTime   = 35
	atProducer  = 43
	atEpoch     = 51
	atSequence  = 53
	atCount     = 57
	headerSize  = 61
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batch is one encoded record batch preceded by its length, as RawProduce
// expects it. The library's own encoder cannot carry a producer's identity.
type batch []byte

// identity is what a broker recognizes duplicates by: it stores the batch with
// the next sequence of a producer and epoch, acknowledges one that it has
// already, and refuses any other.
type identity struct {
	producer int64
	epoch    int16
	sequence int32 // of the next record
}

// appendBatch encodes into dst, which it overwrites, the records of recs at the
// positions in index, in that order: as many as fit into limit bytes, but at
// least one. All get the time at. It returns how many it encoded. Equal input
// gives equal bytes.
func appendBatch(dst batch, recs []event.Record, index []int32, limit int, at time.Time) (batch, int) {
	b := append(dst[:0], make([]byte, prefix+headerSize)...)
	n := 0
	for _, i := range index {
		r := &recs[i]
		size := recordSize(r, n)
		if n > 0 && len(b)+varintSize(size)+size > prefix+limit {
			break
		}
		b = appendRecord(b, r, n, size)
		n++
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-prefix))
	h := b[prefix:]
	binary.BigEndian.PutUint32(h[atLength:], uint32(len(h)-atLength-4))
	binary.BigEndian.PutUint32(h[atLength+4:], ^uint32(0)) // leader epoch: not known to producers
	h[atMagic] = 2
	binary.BigEndian.PutUint32(h[atLastDelta:], uint32(n-1))
	binary.BigEndian.PutUint32(h[atCount:], uint32(n))
	b.setTime(at)
	return b, n
}

// stamp writes the identity and, last, the checksum.
func (b batch) stamp(id identity) {
	h := b[prefix:]
	binary.BigEndian.PutUint64(h[atProducer:], uint64(id.producer))
	binary.BigEndian.PutUint16(h[atEpoch:], uint16(id.epoch))
	binary.BigEndian.PutUint32(h[atSequence:], uint32(id.sequence))
	binary.BigEndian.PutUint32(h[atChecksum:], crc32.Checksum(h[atSummed:], castagnoli))
}

// stamped reports whether b carries id already. A batch that was never stamped has producer 0, epoch 0 and no checksum.
func (b batch) stamped(id identity) bool {
	h := b[prefix:]
	return binary.BigEndian.Uint32(h[atChecksum:]) != 0 &&
		int64(binary.BigEndian.Uint64(h[atProducer:])) == id.producer &&
		int16(binary.BigEndian.Uint16(h[atEpoch:])) == id.epoch &&
		int32(binary.BigEndian.Uint32(h[atSequence:])) == id.sequence
}

func (b batch) count() int { return int(binary.BigEndian.Uint32(b[prefix+atCount:])) }

func (b batch) time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[prefix+atFirstTime:])))
}

// sameRecords compares everything but the identity.
func (b batch) sameRecords(c batch) bool {
	from, to := prefix+atProducer, prefix+atCount
	return len(b) == len(c) && slices.Equal(b[prefix+atSummed:from], c[prefix+atSummed:from]) && slices.Equal(b[to:], c[to:])
}

func appendRecord(b []byte, r *event.Record, delta, size int) []byte {
	b = binary.AppendVarint(b, int64(size))
	b = append(b, 0, 0) // attributes; time relative to the batch
	b = binary.AppendVarint(b, int64(delta))
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for i := range r.Headers {
		b = binary.AppendVarint(b, int64(len(r.Headers[i].Key)))
		b = append(b, r.Headers[i].Key...)
		b = appendBytes(b, r.Headers[i].Value)
	}
	return b
}

// appendBytes distinguishes nil (no key, a tombstone) from empty.
func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

// recordSize is the length of a record without its length prefix.
func recordSize(r *event.Record, delta int) int {
	size := 2 + varintSize(delta) + bytesSize(r.Key) + bytesSize(r.Value) + varintSize(len(r.Headers))
	for i := range r.Headers {
		size += varintSize(len(r.Headers[i].Key)) + len(r.Headers[i].Key) + bytesSize(r.Headers[i].Value)
	}
	return size
}

func bytesSize(v []byte) int {
	if v == nil {
		return 1
	}
	return varintSize(len(v)) + len(v)
}

// varintSize is the length of n as a zigzag varint; n is not negative.
func varintSize(n int) int { return (bits.Len64(uint64(n)<<1|1) + 6) / 7 }

// PartitionOf is the partition, of n, in which Java producers place key, so that
// this producer and others of the topic agree.
func PartitionOf(key []byte, n int) int { return int(murmur2(key)&0x7fffffff) % n }

// murmur2 is the hash of Java's default partitioner.
func murmur2(data []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := 0x9747b28c ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k = (k ^ k>>r) * m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}
