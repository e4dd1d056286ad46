package filter

import (
	"fmt"
	"maps"
	"slices"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
	"github.com/taskwire/taskwire/internal/event"
)

// Matcher decides on events. Several goroutines may use it.
type Matcher struct {
	filters []node
	whole   bool // an sql filter asks for the types of attributes
}

// node is a filter that is ready for events.
type node struct {
	dialect    dialect
	pairs      []pair // of exact, prefix and suffix, by name
	filters    []node // of all, any and not
	expression *cesql.Expression
}

type dialect string

const (
	exact  dialect = "exact"
	prefix dialect = "prefix"
	suffix dialect = "suffix"
	all    dialect = "all"
	anyOf  dialect = "any"
	not    dialect = "not"
	sql    dialect = "sql"
)

type pair struct{ name, value string }

// New returns the matcher for events that pass all filters. Without filters every
// event passes. Its error is the first of their mistakes.
func New(filters []Filter) (*Matcher, error) {
	nodes, err := compiled(filters)
	if err != nil {
		return nil, err
	}
	return &Matcher{nodes, slices.ContainsFunc(nodes, node.whole)}, nil
}

func (n node) whole() bool { return n.dialect == sql || slices.ContainsFunc(n.filters, node.whole) }

func compiled(filters []Filter) ([]node, error) {
	nodes := make([]node, len(filters))
	for i := range filters {
		var err error
		if nodes[i], err = newNode(&filters[i]); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

func newNode(f *Filter) (n node, err error) {
	if wrong := f.Mistakes(); len(wrong) > 0 {
		return n, fmt.Errorf("filter %s: %s", wrong[0].Member, wrong[0].Text)
	}
	switch {
	case f.Exact != nil:
		n = node{dialect: exact, pairs: sorted(f.Exact)}
	case f.Prefix != nil:
		n = node{dialect: prefix, pairs: sorted(f.Prefix)}
	case f.Suffix != nil:
		n = node{dialect: suffix, pairs: sorted(f.Suffix)}
	case f.All != nil:
		n.dialect = all
		n.filters, err = compiled(f.All)
	case f.Any != nil:
		n.dialect = anyOf
		n.filters, err = compiled(f.Any)
	case f.Not != nil:
		n.dialect = not
		n.filters, err = compiled([]Filter{*f.Not})
	default:
		n.dialect = sql
		n.expression, err = cesql.Parse(f.SQL)
	}
	return n, err
}

func sorted(m map[string]string) []pair {
	var pairs []pair
	for _, name := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, pair{name, m[name]})
	}
	return pairs
}

// Match reports whether e passes. err is the first error of an sql filter; that
// filter was false for e, as the specification has it, and passes counts with it.
func (m *Matcher) Match(e event.Event) (passes bool, err error) {
	return matchAll(m.filters, subject{event: e})
}

// MatchOutline is Match for an event of which only the outline is there. It is not
// ok when that is not enough.
func (m *Matcher) MatchOutline(o *event.Outline) (passes, ok bool) {
	if m.whole {
		return false, false
	}
	passes, _ = matchAll(m.filters, subject{outline: o})
	return passes, true
}

// subject is an event, or the outline of one.
type subject struct {
	event   event.Event
	outline *event.Outline
}

func (s *subject) holds(d dialect, p pair) bool {
	if s.outline != nil {
		have, ok := s.outline.Attribute(p.name)
		return ok && holds(d, have, p.value)
	}
	have, ok := event.Attribute(s.event, p.name)
	return ok && holds(d, have, p.value)
}

func matchAll(filters []node, s subject) (matches bool, err error) {
	for i := range filters {
		ok, wrong := filters[i].match(s)
		if err == nil {
			err = wrong
		}
		if !ok {
			return false, err
		}
	}
	return true, err
}

func matchAny(filters []node, s subject) (matches bool, err error) {
	for i := range filters {
		ok, wrong := filters[i].match(s)
		if err == nil {
			err = wrong
		}
		if ok {
			return true, err
		}
	}
	return false, err
}

func (n *node) match(s subject) (matches bool, err error) {
	switch n.dialect {
	case all:
		return matchAll(n.filters, s)
	case anyOf:
		return matchAny(n.filters, s)
	case not:
		ok, err := n.filters[0].match(s)
		return !ok, err
	case sql:
		return n.isTrue(s.event)
	}
	for i := range n.pairs {
		if !s.holds(n.dialect, n.pairs[i]) {
			return false, nil
		}
	}
	return true, nil
}

// holds compares an attribute with the value of an exact, prefix or suffix.
func holds[T string | []byte](d dialect, have T, want string) bool {
	switch {
	case len(have) < len(want):
		return false
	case d == exact:
		return string(have) == want
	case d == prefix:
		return string(have[:len(want)]) == want
	}
	return string(have[len(have)-len(want):]) == want
}

// isTrue takes a value that is no Boolean for an error: nobody wants such a filter.
func (n *node) isTrue(e event.Event) (bool, error) {
	v, err := n.expression.Eval(e)
	switch {
	case err != nil:
		return false, err
	case v.Type() != cesql.Boolean:
		return false, fmt.Errorf("the expression gives %s %q, and a filter needs a Boolean", v.Type(), v)
	}
	return v == cesql.True, nil
}
