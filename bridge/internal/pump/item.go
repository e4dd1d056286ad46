package pump

import (
	"container/heap"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// item is one record on its way. It is owned by the fetcher, then the loop,
// while an attempt runs by its worker, and then by the loop again.
type item struct {
	offset            int64
	size              int // bytes it is counted with
	record            event.Record
	body              []byte
	event, kind       string // id and type
	trace, traceState string
	malformed         error // why it is no event
	unwanted          bool  // the filter says no

	queue    *queue
	attempts int
	counted  int  // failures held against the event: the sink was up and reached
	unposted bool // a stop came before the post
	received time.Time
	first    time.Time // failure; zero before it
	last     time.Time
	due      time.Time // when to try again
	status   int       // of the last answer
	failure  string    // what the last attempt said
	letter   string    // reason to put it aside; "" while it is to be delivered
}

// queue is the events of one key in order; only the head may be tried.
type queue struct {
	key   string
	items []*item
}

// waiting is a heap of items by the time they are due.
type waiting []*item

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].due.Before(w[j].due) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)        { *w = append(*w, x.(*item)) }
func (w *waiting) Pop() any {
	old := *w
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	return it
}

// dueBy takes out the next item that is due at now, nil when there is none.
func (w *waiting) dueBy(now time.Time) *item {
	if len(*w) == 0 || (*w)[0].due.After(now) {
		return nil
	}
	return heap.Pop(w).(*item)
}
