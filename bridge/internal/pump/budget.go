package pump

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Budget is the memory that the partitions of all subscriptions hold together.
// A half is for records that wait or are posted, a quarter for what Kafka has
// answered and nobody has decoded yet, a quarter for connections to sinks.
//
// The first and the last are divided evenly. An answer is as large as the broker
// makes it: its bytes are asked for when its size is known and before it is
// read, so partitions with nothing to fetch take nothing and the others take
// turns. Whoever has no room for the records of an answer gives it back when
// another partition waits, and fetches them again later; so a partition whose
// sink is down keeps no other from going on.
//
// However small the budget, a partition may hold one record and post it. Beyond
// the budget are therefore at most one record and one post for each partition.
type Budget struct {
	bytes   int64
	answers *semaphore.Weighted
	decode  chan struct{} // a place for each decompressor that is open

	partitions atomic.Int64

	mu      sync.Mutex
	waiting int           // grants that wait
	wanted  chan struct{} // closed while any waits
}

// Sizes within a budget, in bytes.
const (
	minRoom, maxRoom     = 64 << 10, 4 << 20 // records of a partition
	minAnswer, maxAnswer = 16 << 10, 1 << 20 // a partition's part of an answer, as far as the broker obeys
	maxRequest           = 4 << 20           // one answer, likewise
	maxRecord            = 64 << 20          // one record, whatever the budget
	postCost             = 32 << 10          // one post in flight: its connection, buffers and stacks
)

// NewBudget divides bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{bytes: bytes, answers: semaphore.NewWeighted(bytes / 4), decode: make(chan struct{}, runtime.GOMAXPROCS(0)), wanted: make(chan struct{})}
	for range cap(b.decode) {
		b.decode <- struct{}{}
	}
	return b
}

// join and leave count the partitions that share the budget.
func (b *Budget) join()  { b.partitions.Add(1) }
func (b *Budget) leave() { b.partitions.Add(-1) }

func (b *Budget) share(of int64) int64 { return of / max(1, b.partitions.Load()) }

// room is how many bytes of records a partition may hold.
func (b *Budget) room() int { return int(min(max(b.share(b.bytes/2), minRoom), maxRoom)) }

// slice is how many bytes of records a fetcher may decode ahead. Up to three
// slices of a partition exist: with the fetcher, on its way and with the loop.
func (b *Budget) slice() int { return b.room() / 4 }

// answer is how many bytes of a partition to ask a broker for.
func (b *Budget) answer() int { return int(min(max(b.share(b.bytes/4), minAnswer), maxAnswer)) }

// request is how many bytes of all partitions to ask a broker for at once. What
// they take is granted one partition after the other; this bounds only how long
// one answer keeps a connection.
func (b *Budget) request() int { return int(min(max(b.bytes/8, minAnswer), maxRequest)) }

// posts is how many posts a partition may have in flight.
// extra is what each takes beside its connection.
func (b *Budget) posts(extra int) int { return int(max(1, b.share(b.bytes/4)/(postCost+int64(extra)))) }

// record is how many bytes one record may have.
func (b *Budget) record() int { return int(min(b.bytes/4, maxRecord)) }

// grant waits until an answer of size bytes may be read, and returns what to
// give back with release.
func (b *Budget) grant(ctx context.Context, size int) (int64, error) {
	n := min(int64(size), b.bytes/4) // a larger one is read when it is the only one
	if b.answers.TryAcquire(n) {
		return n, nil
	}
	b.want(1)
	defer b.want(-1)
	if err := b.answers.Acquire(ctx, n); err != nil {
		return 0, err
	}
	return n, nil
}

func (b *Budget) release(n int64) { b.answers.Release(n) }

func (b *Budget) want(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.waiting += n; {
	case n > 0 && b.waiting == 1:
		close(b.wanted)
	case b.waiting == 0:
		b.wanted = make(chan struct{})
	}
}

// short is closed while a grant waits.
func (b *Budget) short() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted
}
