package pump

import (
	"cmp"
	"container/heap"
	"slices"
	"strconv"
	"time"
)

// maxItems bounds the records of a partition that are admitted and not done.
const maxItems = 8192

// window holds the admitted records of a partition: a queue per key, of which
// only the head may be tried. That is what keeps the order of a key, whatever
// happens to its head.
type window struct {
	order Order

	queues  map[string]*queue
	ready   []*item  // heads to be posted
	waiting schedule // heads that failed and are due later
	arrived []*item  // all, by offset; those that are done leave when they come first
	items   int
	bytes   int
}

// queue is the records of one key in order; each knows the next.
type queue struct {
	key        string
	head, tail *item
}

func newWindow(order Order) *window {
	return &window{order: order, queues: map[string]*queue{}}
}

// full reports whether the next record must wait: room bytes are taken. One
// record always fits.
func (w *window) full(room int) bool {
	return w.items >= maxItems || (w.items > 0 && w.bytes >= room)
}

// add puts it at the end of its key's queue. It returns it when that makes it
// the head, else nil.
func (w *window) add(it *item) (head *item) {
	q := w.queue(it)
	it.queue = q
	w.arrived = append(w.arrived, it)
	w.items++
	w.bytes += it.size
	if q.head != nil {
		q.tail.next = it
		q.tail = it
		return nil
	}
	q.head, q.tail = it, it
	return it
}

// queue is that of the key of it.
func (w *window) queue(it *item) *queue {
	if w.order == ByKey && it.record.Key != nil {
		if q := w.queues[string(it.record.Key)]; q != nil {
			return q
		}
	}
	key := w.key(it)
	q := w.queues[key]
	if q == nil {
		q = &queue{key: key}
		w.queues[key] = q
	}
	return q
}

func (w *window) key(it *item) string {
	switch {
	case w.order == ByPartition:
		return ""
	case w.order == None || it.record.Key == nil:
		return "\x00" + strconv.FormatInt(it.offset, 10) // a key of its own
	}
	return string(it.record.Key)
}

// finish takes out it, a head, and returns the next of its key, nil when there is none.
func (w *window) finish(it *item) (head *item) {
	it.state = done
	w.items--
	w.bytes -= it.size
	n := 0
	for n < len(w.arrived) && w.arrived[n].state == done {
		n++
	}
	w.arrived = drop(w.arrived, n)
	q := it.queue
	q.head, it.next = it.next, nil
	if q.head == nil {
		delete(w.queues, q.key)
	}
	return q.head
}

// lowest is the item that holds the commit back, nil when there is none.
func (w *window) lowest() *item {
	if len(w.arrived) == 0 {
		return nil
	}
	return w.arrived[0]
}

// push makes a head ready to be posted.
func (w *window) push(it *item) { w.ready = append(w.ready, it) }

// retry makes a head that failed wait until it is due.
func (w *window) retry(it *item, due time.Time) {
	it.state, it.due = waiting, due
	heap.Push(&w.waiting, it)
}

// next is the first head to post now, nil when there is none. It stays where it is until take.
func (w *window) next(now time.Time) *item {
	for w.waiting.due(now) {
		w.push(heap.Pop(&w.waiting).(*item))
	}
	if len(w.ready) == 0 {
		return nil
	}
	return w.ready[0]
}

// together is what next returned and the heads to post with it: at most size, and
// more than bytes only if there is one. Events whose batch has failed stay among
// themselves, so that the one to blame is found in as many steps as sizes halve.
func (w *window) together(size, bytes int) []*item {
	first := w.ready[0]
	if first.most > 0 {
		size = min(size, first.most)
	}
	n, total := 1, len("[]")+len(first.body)
	for n < min(size, len(w.ready)) && w.ready[n].most == first.most {
		if total += len(",") + len(w.ready[n].body); total > bytes {
			break
		}
		n++
	}
	return w.ready[:n]
}

// take removes the n heads that together returned: a worker has them.
func (w *window) take(n int) {
	for _, it := range w.ready[:n] {
		it.state = posting
	}
	w.ready = drop(w.ready, n)
}

// drop takes the first n off. An empty list begins at the start of its memory again.
func drop(list []*item, n int) []*item {
	clear(list[:n])
	if n == len(list) {
		return list[:0]
	}
	return list[n:]
}

// find is the item at offset, nil when it is done or was not admitted.
func (w *window) find(offset int64) *item {
	i, ok := slices.BinarySearchFunc(w.arrived, offset, func(it *item, offset int64) int { return cmp.Compare(it.offset, offset) })
	if !ok || w.arrived[i].state == done {
		return nil
	}
	return w.arrived[i]
}

// withdraw takes a head that is to be posted off the schedule.
func (w *window) withdraw(it *item) {
	w.ready = slices.DeleteFunc(w.ready, func(r *item) bool { return r == it })
	if i := slices.Index(w.waiting, it); i >= 0 {
		heap.Remove(&w.waiting, i)
	}
}

// nextDue is when next will find something; ok is false when nothing is scheduled.
func (w *window) nextDue(now time.Time) (at time.Time, ok bool) {
	switch {
	case len(w.ready) > 0:
		return now, true
	case len(w.waiting) > 0:
		return w.waiting[0].due, true
	}
	return time.Time{}, false
}

// hasten makes a head ready if none is: the one that is due first.
func (w *window) hasten(now time.Time) {
	if w.next(now) == nil && len(w.waiting) > 0 {
		w.push(heap.Pop(&w.waiting).(*item))
	}
}

// wake makes everything that waits due now.
func (w *window) wake(now time.Time) {
	for _, it := range w.waiting {
		it.due = now
	}
	heap.Init(&w.waiting)
}
