package ledger

import "hash/maphash"

// index finds the entries that may hold an event, by hash of its source and id.
// It returns candidates: the caller compares them with the line on disk, so
// de-duplication is exact although a slot keeps only 28 bits of the hash.
//
// A slot is 8 bytes: the fingerprint in the high bits, the entry's number in the
// low bits. Shards keep the growth in small steps; a shard grows by a quarter,
// so the load stays between 0.68 and 0.85 and an entry costs 9.4 to 11.8 bytes
// at any size. Nothing is ever removed.
//
// Guarded by Ledger.mu.
type index struct {
	seed   maphash.Seed // new in each process, so that collisions cannot be prepared
	shards [indexShards]shard
}

type shard struct {
	slots []uint64 // 0 is free, entry numbers begin at 1
	used  int
}

const (
	indexShardBits = 9
	indexShards    = 1 << indexShardBits
	seqBits        = 36 // 68 billion entries
	printBits      = 64 - seqBits
	seqMask        = 1<<seqBits - 1
)

func newIndex() *index { return &index{seed: maphash.MakeSeed()} }

func (x *index) hash(source, id []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.Write(source)
	h.Write(id)
	return h.Sum64()
}

// split returns the shard and the fingerprint, which is in the high bits of a slot.
func split(hash uint64) (shardNo int, print uint64) {
	return int(hash >> (64 - indexShardBits)), hash << indexShardBits &^ uint64(seqMask)
}

// home is the slot where the search for a fingerprint begins.
func home(print uint64, slots int) int {
	return int(print >> seqBits * uint64(slots) >> printBits)
}

// candidates calls yield with each entry that may hold the event.
func (x *index) candidates(hash uint64, yield func(seq int64) bool) {
	no, print := split(hash)
	slots := x.shards[no].slots
	if len(slots) == 0 {
		return
	}
	for i := home(print, len(slots)); slots[i] != 0; {
		if slots[i]&^uint64(seqMask) == print && !yield(int64(slots[i]&seqMask)) {
			return
		}
		if i++; i == len(slots) {
			i = 0
		}
	}
}

func (x *index) add(hash uint64, seq int64) {
	no, print := split(hash)
	s := &x.shards[no]
	if (s.used+1)*20 > len(s.slots)*17 {
		s.grow()
	}
	s.put(print | uint64(seq))
	s.used++
}

func (s *shard) grow() {
	old := s.slots
	s.slots = newTable[uint64](grown(len(old)))
	for _, v := range old {
		if v != 0 {
			s.put(v)
		}
	}
	freeTable(old)
}

func (x *index) free() {
	for i := range x.shards {
		freeTable(x.shards[i].slots)
		x.shards[i] = shard{}
	}
}

func (s *shard) put(v uint64) {
	i := home(v&^uint64(seqMask), len(s.slots))
	for s.slots[i] != 0 {
		if i++; i == len(s.slots) {
			i = 0
		}
	}
	s.slots[i] = v
}
