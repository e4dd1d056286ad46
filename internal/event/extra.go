package event

import (
	"cmp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// extra is a member of an envelope, or of its metadata, that the original does not have.
type extra struct {
	metadata bool
	name     string
	value    jsontext.Value
}

// extras are the further members of one envelope. Null says nothing, as in the
// JSON format of CloudEvents, and is left out.
type extras []extra

func (x *extras) add(e extra) {
	if e.value.Kind() != jsontext.KindNull {
		*x = append(*x, e)
	}
}

// keep sets as extension attributes those whose name and value can be one:
// user_id becomes userid, as correlation_id becomes correlationid. What cannot,
// or is there already, goes into data as its last member:
//
//	"envelope": {"seq": 1.5, "metadata": {"tags": ["a"]}}
//
// The result does not depend on the order of the members.
func (x extras) keep(b *builder, data jsontext.Value) (jsontext.Value, error) {
	slices.SortFunc(x, func(a, b extra) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a.name, b.name))
	})
	left := slices.DeleteFunc(x, func(e extra) bool { return b.takes(e) })
	if len(left) == 0 {
		return data, nil
	}
	return left.into(data)
}

// rank prefers names that are attribute names already, then the outer members.
func rank(e extra) int {
	n := 0
	if attributeOf(e.name) != e.name {
		n += 2
	}
	if e.metadata {
		n++
	}
	return n
}

func attributeOf(name string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
}

// takes sets e as an extension attribute if that is possible.
func (b *builder) takes(e extra) bool {
	name := attributeOf(e.name)
	// The attributes of the specification are for the original's members to set.
	return !core(name) && b.attempt(func() error { return b.setJSON(name, e.value) })
}

// into returns data with x as its last member.
func (x extras) into(data jsontext.Value) (jsontext.Value, error) {
	empty := true
	err := members(data, func(name string, _ jsontext.Value) error {
		empty = false
		if name == "envelope" {
			return invalid("data", "has a member envelope, and the envelope has members that would go there")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b := data[:len(data)-1] // without the brace
	if !empty {
		b = append(b, ',')
	}
	b = append(b, `"envelope":`...)
	b = x.object(b, false)
	return append(b, '}'), nil
}

// object writes the members of one level, and the metadata last.
func (x extras) object(b []byte, metadata bool) []byte {
	var q quoter
	separator := byte('{')
	for _, e := range x {
		if e.metadata != metadata {
			continue
		}
		b = q.append(append(b, separator), e.name)
		b = append(append(b, ':'), e.value...)
		separator = ','
	}
	if !metadata && slices.ContainsFunc(x, func(e extra) bool { return e.metadata }) {
		b = append(append(b, separator), `"metadata":`...)
		b = x.object(b, true)
	}
	return append(b, '}')
}
