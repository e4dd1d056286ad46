package filter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
	"github.com/taskwire/taskwire/internal/event"
)

// Matcher decides on events. Several goroutines may use it.
type Matcher struct{ filters []node }

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
	return &Matcher{nodes}, nil
}

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
	return matchAll(m.filters, e)
}

func matchAll(filters []node, e event.Event) (matches bool, err error) {
	for i := range filters {
		ok, wrong := filters[i].match(e)
		if err == nil {
			err = wrong
		}
		if !ok {
			return false, err
		}
	}
	return true, err
}

func matchAny(filters []node, e event.Event) (matches bool, err error) {
	for i := range filters {
		ok, wrong := filters[i].match(e)
		if err == nil {
			err = wrong
		}
		if ok {
			return true, err
		}
	}
	return false, err
}

func (n *node) match(e event.Event) (matches bool, err error) {
	switch n.dialect {
	case all:
		return matchAll(n.filters, e)
	case anyOf:
		return matchAny(n.filters, e)
	case not:
		ok, err := n.filters[0].match(e)
		return !ok, err
	case sql:
		return n.isTrue(e)
	}
	for i := range n.pairs {
		have, ok := event.Attribute(e, n.pairs[i].name)
		if !ok || !n.dialect.holds(have, n.pairs[i].value) {
			return false, nil
		}
	}
	return true, nil
}

// holds compares an attribute with the value of an exact, prefix or suffix.
func (d dialect) holds(have, want string) bool {
	switch d {
	case exact:
		return have == want
	case prefix:
		return strings.HasPrefix(have, want)
	}
	return strings.HasSuffix(have, want)
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
