package ledger

import "hash/maphash"

// index finds the entries that may hold an event, by hash of its source and id.
// It answers with candidates: the caller compares with the line on disk, so
// that de-duplication is exact although a slot keeps 28 bits of the hash only.
//
// A slot is 8 bytes: the fingerprint above, the number of the entry below. The
// shards keep growth in small steps; a shard grows by a quarter, so that the
// load stays between 0.68 and 0.85 and an entry costs 9.4 to 11.8 bytes,
// whatever the size. Nothing is ever removed.
//
// Guarded by Ledger.mu.
type index struct {
	seed   maphash.Seed // new in each process: nobody can prepare collisions
	shards [indexShards]shard
}

type shard struct {
	slots []uint64 // 0 is free, entry numbers begin at 1
	used  int
}

const (
	indexShardBits = 9
	indexShards    = 1 << indexShardBits
	seqBits        = 36 // 68 thousand million entries
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

// split gives the shard and, in the upper bits of a slot, the fingerprint.
func split(hash uint64) (shardNo int, print uint64) {
	return int(hash >> (64 - indexShardBits)), hash << indexShardBits &^ uint64(seqMask)
}

// home is where the search for a fingerprint begins.
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

// versions keeps the last version seen of each task: 12 bytes per task at a
// load of 0.68 to 0.85. A task is told by a 64-bit hash alone. Two tasks that
// share one would flag a gap that is none, and with ten million tasks the odds
// of that are one in 300,000; nothing is refused because of a gap.
//
// Guarded by Ledger.mu.
type versions struct {
	seed   maphash.Seed
	shards [versionShards]versionShard
}

type versionShard struct {
	keys []uint64 // 0 is free
	last []int32
	used int
}

const (
	versionShardBits = 7
	versionShards    = 1 << versionShardBits
)

func newVersions() *versions { return &versions{seed: maphash.MakeSeed()} }

// A Step is a version that does not follow the one before it. Last is 0 for
// a task that was not seen before.
type Step struct{ Last, Version int64 }

// Back tells a step back or a repetition from a gap.
func (s Step) Back() bool { return s.Version <= s.Last }

// hash tells the task of a source; versions of different sources do not mix.
func (v *versions) hash(source, task []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(v.seed)
	h.Write(source)
	h.Write(task)
	return h.Sum64()
}

// see notes the version and reports it when it is not the next one. After a
// step back the highest version stays the one to follow.
func (v *versions) see(task uint64, version int64) *Step {
	last := v.slot(task)
	was := int64(*last)
	if version > was {
		*last = int32(min(version, 1<<31-1))
	}
	if version == was+1 {
		return nil
	}
	return &Step{Last: was, Version: version}
}

func (v *versions) slot(hash uint64) *int32 {
	s := &v.shards[hash>>(64-versionShardBits)]
	k := max(hash<<versionShardBits, 1)
	if (s.used+1)*20 > len(s.keys)*17 {
		s.grow()
	}
	i, found := s.find(k)
	if !found {
		s.keys[i] = k
		s.used++
	}
	return &s.last[i]
}

func (s *versionShard) find(k uint64) (int, bool) {
	i := int(k >> 32 * uint64(len(s.keys)) >> 32)
	for s.keys[i] != 0 && s.keys[i] != k {
		if i++; i == len(s.keys) {
			i = 0
		}
	}
	return i, s.keys[i] == k
}

func (s *versionShard) grow() {
	old := *s
	n := grown(len(old.keys))
	s.keys, s.last = newTable[uint64](n), newTable[int32](n)
	for i, k := range old.keys {
		if k != 0 {
			j, _ := s.find(k)
			s.keys[j], s.last[j] = k, old.last[i]
		}
	}
	freeTable(old.keys)
	freeTable(old.last)
}

func (v *versions) free() {
	for i := range v.shards {
		freeTable(v.shards[i].keys)
		freeTable(v.shards[i].last)
		v.shards[i] = versionShard{}
	}
}
