package pump

import (
	"net/http"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/internal/event"
)

// state is where a record is on its way through the partition.
//
//	fetched:  unwanted ─▶ done            no filter matches
//	          malformed ─▶ writing ─▶ done
//	          undecoded ─▶ queued         its schema is known, or malformed
//	          queued ─▶ posting ─▶ done   accepted
//	                       ├─▶ waiting ─▶ posting ...
//	                       ├─▶ writing ─▶ done   refused, exhausted, or expired before the post
//	                       └─▶ queued     not begun: the sink has asked for a pause
type state uint8

const (
	queued    state = iota // to be posted when it is at the head of its key
	unwanted               // done as soon as it is admitted
	undecoded              // its data is Avro whose schema is not known yet
	malformed              // no event: to be dead-lettered when it is at the head of its key
	posting                // with a worker
	waiting                // failed; posted again when it is due
	writing                // its dead letter is being written, or waits for that
	kept                   // an open dead letter that this pass leaves alone
	foreign                // no dead letter of this subscription
	ignored                // a dead letter that an operator gives up
	done
)

// item is one record on its way. It is owned by the fetcher, then by the loop,
// by a worker while that posts it or writes its dead letter, and then by the
// loop again.
type item struct {
	offset            int64
	size              int // bytes it is counted with
	record            event.Record
	contentType       string      // of the post
	header            http.Header // of the post; the attributes in the binary form
	body              []byte
	event, kind       string    // id and type
	key, version      string    // with published, for the journal
	published         time.Time // time of the record
	trace, traceState string
	webhookID         string    // when posts are signed
	expires           time.Time // its expirytime; zero for none

	state    state
	queue    *queue
	next     *item     // of the queue
	received time.Time // when it was admitted
	due      time.Time // when to post it, or to write its dead letter, again

	attempts int // posts answered or given up
	counted  int // of which the event is to blame: the sink was up and reached
	status   int // of the last answer
	err      error
	first    time.Time // failure; zero before it
	last     time.Time // failure

	encoded *event.Event // while it is undecoded

	letter *deadletter.Letter // what it was as a dead letter; nil for an event of the topic
	most   int                // events in a batch with it, since one has failed as a whole, or since it is no JSON; 0 for no limit of its own

	skip   *skip // an operator wants it set aside
	notice bool  // it is set aside, and its body is the notice of that

	reason    string // of its dead letter
	unwritten int    // failed writes of its dead letter
	letterErr error  // of the last of them
}

// fail records a failure at now.
func (it *item) fail(err error, now time.Time) {
	it.err, it.last = err, now
	if it.first.IsZero() {
		it.first = now
	}
}

// failingFor is the time since the first failure, for a log line.
func (it *item) failingFor(now time.Time) string {
	return now.Sub(it.first).Round(time.Millisecond).String()
}

// schedule is a heap of items by the time they are due. Use container/heap.
type schedule []*item

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)        { *s = append(*s, x.(*item)) }
func (s *schedule) Pop() any {
	old := *s
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	return it
}

// due reports whether the first item is due at now.
func (s schedule) due(now time.Time) bool { return len(s) > 0 && !s[0].due.After(now) }
