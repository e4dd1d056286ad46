package group

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// protocolType and protocolName are those of Java consumers with the range assignor, so
// that such consumers and this package can share a group, whoever leads it.
const (
	protocolType = "consumer"
	protocolName = "range"
)

// subscriber is a member of the group as described to its leader.
type subscriber struct {
	id       string
	instance string
	topics   []string
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
// Version 0 is written; of newer versions the part common to all is read.

func encodeSubscription(topic string) []byte {
	b := []byte{0, 0}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = appendString(b, topic)
	return binary.BigEndian.AppendUint32(b, 0xffffffff) // no user data
}

func decodeSubscription(b []byte) ([]string, error) {
	r := reader{b: b}
	r.uint16() // version
	topics := make([]string, 0, 1)
	for range r.length() {
		topics = append(topics, r.string())
		if r.short {
			break
		}
	}
	if r.short {
		return nil, errors.New("subscription is truncated")
	}
	return topics, nil
}

func encodeAssignment(partitions map[string][]int) []byte {
	b := []byte{0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(len(partitions)))
	for topic, ids := range partitions {
		b = appendString(b, topic)
		b = binary.BigEndian.AppendUint32(b, uint32(len(ids)))
		for _, id := range ids {
			b = binary.BigEndian.AppendUint32(b, uint32(id))
		}
	}
	return binary.BigEndian.AppendUint32(b, 0xffffffff)
}

// decodeAssignment returns the partitions of one topic. A member without partitions may
// get no bytes at all.
func decodeAssignment(b []byte, topic string) ([]int, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var ids []int
	r := reader{b: b}
	r.uint16()
	for range r.length() {
		name := r.string()
		for range r.length() {
			if id := r.uint32(); name == topic && !r.short {
				ids = append(ids, int(id))
			}
		}
		if r.short {
			return nil, errors.New("assignment is truncated")
		}
	}
	if r.short {
		return nil, errors.New("assignment is truncated")
	}
	slices.Sort(ids)
	return ids, nil
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
