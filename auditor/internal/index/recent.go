package index

import "encoding/binary"

// Recent holds a value for each of the hashes that were put last, and knows of
// others that they were never put: those of a later time than every hash that it
// has let go. So what is surely new needs no look into the store.
//
// It is for ids that hold their time; of others it never says that they are new.
// An id from the far future does no harm but that it ends this knowledge, when it
// is let go, for ids before it.
//
// A Recent has no lock.
type Recent[V any] struct {
	size        int
	now, before generation[V]
	floor       uint64 // no hash of a later time was put and let go
}

// generation is let go as a whole.
type generation[V any] struct {
	values map[Hash]V
	latest uint64 // time of a hash in it
}

func (g *generation[V]) put(h Hash, v V) {
	g.values[h] = v
	if t, ok := h.time(); ok {
		g.latest = max(g.latest, t)
	}
}

// NewRecent holds size hashes at least and twice as many at most, as long as it is
// rotated. latest is the latest of the hashes put before; its zero stands for none.
func NewRecent[V any](size int, latest Hash) *Recent[V] {
	r := &Recent[V]{size: size}
	r.floor, _ = latest.time()
	r.now.values, r.before.values = map[Hash]V{}, map[Hash]V{}
	return r
}

// Put sets the value of h.
func (r *Recent[V]) Put(h Hash, v V) { r.now.put(h, v) }

// Get returns the last value of h, if it is still held; fresh means that h was
// never put.
func (r *Recent[V]) Get(h Hash) (v V, held, fresh bool) {
	if v, held = r.now.values[h]; held {
		return v, true, false
	}
	if v, held = r.before.values[h]; held {
		return v, true, false
	}
	t, ok := h.time()
	return v, false, ok && t > r.floor
}

// Due reports whether Rotate should let go of the older half, if that may go.
func (r *Recent[V]) Due() bool { return len(r.now.values) >= r.size }

// Rotate lets go of what was put before the last rotation and not since.
func (r *Recent[V]) Rotate() {
	r.floor = max(r.floor, r.before.latest)
	gone := r.before.values
	clear(gone)
	r.before, r.now = r.now, generation[V]{values: gone}
}

// time is that of the id in the hash; false when the id holds none.
func (h Hash) time() (uint64, bool) {
	return binary.BigEndian.Uint64(h[:]) >> 16, h[0] != noTime
}
