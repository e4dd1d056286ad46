package group

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// protocolType and protocolRange are those of Java consumers with the range assignor, so
// that such consumers and this package can share a group, whoever leads it. protocolSticky
// is this package's own; the coordinator chooses it when all members know it.
const (
	protocolType   = "consumer"
	protocolRange  = "range"
	protocolSticky = "taskwire-sticky"
)

// subscriber is a member of the group as described to its leader.
type subscriber struct {
	id       string
	instance string
	subscription
}

// subscription is what a member tells the leader: its topics, and what it works on and
// goes on working on while the group rebalances, with the generation that assigned it.
type subscription struct {
	topics     []string
	owned      map[string][]int
	generation int32
}

// assign distributes the partitions of each topic among the members that subscribe to it,
// in ranges, exactly as Java's RangeAssignor does: members with an instance id first, and
// the first few members get one partition more. Each member has an entry in the result.
func assign(members []subscriber, partitions map[string]int) map[string]map[string][]int {
	members = slices.Clone(members)
	slices.SortFunc(members, compare)
	plan := make(map[string]map[string][]int, len(members))
	byTopic := make(map[string][]string)
	for _, m := range members {
		plan[m.id] = make(map[string][]int)
		for _, topic := range m.topics {
			byTopic[topic] = append(byTopic[topic], m.id)
		}
	}
	for topic, ids := range byTopic {
		share, more := partitions[topic]/len(ids), partitions[topic]%len(ids)
		next := 0
		for i, id := range ids {
			n := share
			if i < more {
				n++
			}
			for range n {
				plan[id][topic] = append(plan[id][topic], next)
				next++
			}
		}
	}
	return plan
}

func compare(a, b subscriber) int {
	switch {
	case a.instance != "" && b.instance != "":
		return cmp.Compare(a.instance, b.instance)
	case a.instance != "":
		return -1
	case b.instance != "":
		return 1
	}
	return cmp.Compare(a.id, b.id)
}

// The two structures that members exchange through the broker, which does not parse them.
// Of a subscription version 2 is written, the first with owned partitions and their
// generation, or 0 when there are none; of an assignment version 0. Of newer versions the
// part that this package knows is read.

func encodeSubscription(topic string, owned []int, generation int32) []byte {
	b := []byte{0, 2}
	if len(owned) == 0 {
		b = []byte{0, 0}
	}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = appendString(b, topic)
	b = binary.BigEndian.AppendUint32(b, null) // no user data
	if len(owned) == 0 {
		return b
	}
	b = appendPartitions(b, map[string][]int{topic: owned})
	return binary.BigEndian.AppendUint32(b, uint32(generation))
}

func decodeSubscription(b []byte) (subscription, error) {
	r := reader{b: b}
	s := subscription{topics: make([]string, 0, 1), generation: -1}
	version := r.uint16()
	for range r.length() {
		s.topics = append(s.topics, r.string())
		if r.short {
			break
		}
	}
	if version >= 1 && !r.short {
		r.bytes() // user data
		s.owned = r.partitions()
	}
	if version >= 2 {
		s.generation = int32(r.uint32())
	}
	if r.short {
		return subscription{}, errors.New("subscription is truncated")
	}
	return s, nil
}

// mark in the user data of an assignment says that its leader gives nobody what another
// member still works on.
const mark = "taskwire 1"

func encodeAssignment(partitions map[string][]int) []byte {
	b := appendPartitions([]byte{0, 0}, partitions)
	b = binary.BigEndian.AppendUint32(b, uint32(len(mark)))
	return append(b, mark...)
}

// decodeAssignment returns the partitions of one topic, and whether the assignment has the
// mark. A member without partitions may get no bytes at all.
func decodeAssignment(b []byte, topic string) (ids []int, marked bool, err error) {
	if len(b) == 0 {
		return nil, false, nil
	}
	r := reader{b: b}
	r.uint16()
	ids = slices.Sorted(slices.Values(r.partitions()[topic]))
	marked = string(r.bytes()) == mark
	if r.short {
		return nil, false, errors.New("assignment is truncated")
	}
	return ids, marked, nil
}

const null = 0xffffffff // length of what is not there

func appendPartitions(b []byte, partitions map[string][]int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(partitions)))
	for topic, ids := range partitions {
		b = appendString(b, topic)
		b = binary.BigEndian.AppendUint32(b, uint32(len(ids)))
		for _, id := range ids {
			b = binary.BigEndian.AppendUint32(b, uint32(id))
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// reader consumes the fields of b; past its end it sets short and returns zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) string() string { return string(r.take(int(r.uint16()))) }

// bytes reads a nullable array of bytes.
func (r *reader) bytes() []byte {
	n := r.uint32()
	if n == null {
		return nil
	}
	return r.take(int(n))
}

func (r *reader) partitions() map[string][]int {
	all := map[string][]int{}
	for range r.length() {
		topic := r.string()
		for range r.length() {
			if id := r.uint32(); !r.short {
				all[topic] = append(all[topic], int(id))
			}
		}
		if r.short {
			return nil
		}
	}
	return all
}

// length reads the length of an array. An element has at least two bytes, so that an
// impossible length costs neither time nor memory.
func (r *reader) length() int {
	n := int32(r.uint32())
	if n < 0 || int(n) > len(r.b)/2 {
		r.short = r.short || n > 0
		return 0
	}
	return int(n)
}
