package kafka

import (
	"math"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

// batchLimit stays below the 1 MiB that a topic accepts by default.
const batchLimit = 1_000_000

type place struct {
	topic string
	id    int
}

// partition is the producer's state of one partition. The fields after turn
// are owned by whoever holds its token.
type partition struct {
	place
	turn chan struct{} // holds one token; taken for a whole Produce call

	known bool     // whether id is valid
	id    identity // of the next batch
	limit int      // bytes of a batch, lowered when the broker finds one too large
	spare batch    // memory for the next batch; nil when a request may still read it
	// unsure is the last batch when its call ended before it was known whether the
	// batch is stored. Its sequence must never be used for other records: the broker
	// could take them for a repetition and drop them.
	unsure batch
}

// next returns a batch of the first records of index, as many as fit.
func (pt *partition) next(recs []event.Record, index []int32, now time.Time) batch {
	if last := pt.unsure; last != nil {
		if n := last.count(); n <= len(index) {
			again, m := appendBatch(nil, recs, index[:n], math.MaxInt32, last.time())
			if m == n && again.sameRecords(last) {
				return last
			}
		}
		// Other records come first now. Once a batch of a higher epoch is stored, the
		// broker refuses every batch of a lower one, so the unsure batch cannot follow it.
		pt.renew()
		pt.unsure = nil
	}
	b, _ := appendBatch(pt.spare, recs, index, pt.limit, now)
	pt.spare = nil
	return b
}

// renew restarts the sequence in the next epoch; a producer without further
// epochs gets a new id.
func (pt *partition) renew() {
	if pt.id.epoch == math.MaxInt16 {
		pt.known = false
		return
	}
	pt.id.epoch++
	pt.id.sequence = 0
}

// stored moves on after b is stored. Its memory serves the next batch, unless a
// request that timed out may still read it.
func (pt *partition) stored(b batch, read bool) {
	pt.id.sequence += int32(b.count())
	pt.forget(b, false)
	if read {
		pt.spare = nil
	}
}

// forget frees b's sequence for other records; if b may be stored, under a new epoch.
func (pt *partition) forget(b batch, maybe bool) {
	pt.unsure = nil
	pt.spare = b
	if maybe {
		pt.renew()
		pt.spare = nil
	}
}

// remember keeps b for the next call if it may be stored.
func (pt *partition) remember(b batch, maybe bool) {
	if maybe {
		pt.unsure = b
		return
	}
	pt.forget(b, false)
}
