package kafka

import (
	"errors"
	"fmt"
	"slices"

	"github.com/taskwire/taskwire/internal/event"
)

// share is the part of a Produce call that goes to one partition.
type share struct {
	part  *partition
	index []int32 // positions in recs, ascending
	acked int     // how many of them are stored
	err   error   // why the rest is not
}

// split groups records by partition, keeping their order: a counting sort.
func (p *Producer) split(topic string, recs []event.Record, n int) []share {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n == 1 {
		return []share{{part: p.partition(place{topic, 0}), index: upTo(len(recs))}}
	}
	keyless := int(p.turn.Add(1)) % n
	target := make([]int32, len(recs))
	ends := make([]int32, n+1) // ends[i+1] counts partition i, then becomes its end
	for i := range recs {
		to := keyless
		if recs[i].Key != nil {
			to = PartitionOf(recs[i].Key, n)
		}
		target[i] = int32(to)
		ends[to+1]++
	}
	for i := range n {
		ends[i+1] += ends[i]
	}
	index := make([]int32, len(recs))
	next := slices.Clone(ends[:n])
	for i, to := range target {
		index[next[to]] = int32(i)
		next[to]++
	}
	var shares []share
	for i := range n {
		if ends[i] < ends[i+1] {
			shares = append(shares, share{part: p.partition(place{topic, i}), index: index[ends[i]:ends[i+1]]})
		}
	}
	return shares
}

func upTo(n int) []int32 {
	index := make([]int32, n)
	for i := range index {
		index[i] = int32(i)
	}
	return index
}

// ProduceError reports which records are not known to be stored. They may be
// stored nevertheless: the answer to a request can get lost.
type ProduceError struct {
	Topic string
	Acked []bool // by position in the call; true: every in-sync replica has it
	Err   error  // why the others are not acknowledged
}

func (e *ProduceError) Error() string {
	missing := 0
	for _, ok := range e.Acked {
		if !ok {
			missing++
		}
	}
	return fmt.Sprintf("produce to topic %s: %d of %d records are not acknowledged: %v", e.Topic, missing, len(e.Acked), e.Err)
}

func (e *ProduceError) Unwrap() error { return e.Err }

// produceError joins the outcomes of all shares of a call; nil when every record is stored.
func produceError(topic string, records int, shares []share) error {
	if !slices.ContainsFunc(shares, func(s share) bool { return s.err != nil }) {
		return nil
	}
	e := &ProduceError{Topic: topic, Acked: make([]bool, records)}
	var causes []error
	for _, s := range shares {
		for _, i := range s.index[:s.acked] {
			e.Acked[i] = true
		}
		if s.err != nil && !slices.ContainsFunc(causes, func(c error) bool { return c.Error() == s.err.Error() }) {
			causes = append(causes, s.err)
		}
	}
	e.Err = errors.Join(causes...)
	return e
}
