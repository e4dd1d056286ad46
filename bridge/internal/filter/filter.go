// Package filter decides which events a subscription wants, in the dialects of
// the CloudEvents Subscriptions API: exact, prefix, suffix, all, any, not and sql.
// Attributes are compared in their canonical text, except by sql, which knows
// their types; an attribute that an event lacks matches nothing.
package filter

import (
	"maps"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
)

// Filter is one condition as the configuration has it. Exactly one member is set.
type Filter struct {
	Exact  map[string]string `yaml:"exact,omitempty"`  // attribute to value; all must hold
	Prefix map[string]string `yaml:"prefix,omitempty"` // attribute to beginning
	Suffix map[string]string `yaml:"suffix,omitempty"` // attribute to end
	All    []Filter          `yaml:"all,omitempty"`
	Any    []Filter          `yaml:"any,omitempty"`
	Not    *Filter           `yaml:"not,omitempty"`
	SQL    string            `yaml:"sql,omitempty"` // a CloudEvents SQL expression
}

// Types is the short form: the event's type is one of types.
func Types(types []string) Filter {
	f := Filter{}
	for _, t := range types {
		f.Any = append(f.Any, Filter{Exact: map[string]string{"type": t}})
	}
	return f
}

// Mistake is something wrong with a filter.
type Mistake struct {
	Member string // the dialect that it is in; "" for the filter as a whole
	Text   string
}

// Mistakes returns what is wrong with f itself, and not with the filters in it.
func (f *Filter) Mistakes() []Mistake {
	var wrong []Mistake
	var set []string
	add := func(member, text string) {
		if text != "" {
			wrong = append(wrong, Mistake{member, text})
		}
	}
	for _, m := range []struct {
		dialect string
		set     bool
		wrong   func() string
	}{
		{"exact", f.Exact != nil, func() string { return wrongPairs(f.Exact) }},
		{"prefix", f.Prefix != nil, func() string { return wrongPairs(f.Prefix) }},
		{"suffix", f.Suffix != nil, func() string { return wrongPairs(f.Suffix) }},
		{"all", f.All != nil, func() string { return wrongList(f.All) }},
		{"any", f.Any != nil, func() string { return wrongList(f.Any) }},
		{"not", f.Not != nil, func() string { return "" }},
		{"sql", f.SQL != "", func() string { return wrongExpression(f.SQL) }},
	} {
		if m.set {
			set = append(set, m.dialect)
			add(m.dialect, m.wrong())
		}
	}
	if len(set) != 1 {
		have := "none"
		if len(set) > 0 {
			have = strings.Join(set, " and ")
		}
		add("", "want exactly one of exact, prefix, suffix, all, any, not, sql; have "+have)
	}
	return wrong
}

func wrongPairs(pairs map[string]string) string {
	if len(pairs) == 0 {
		return "want at least one attribute with its value"
	}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		switch {
		case name == "" || pairs[name] == "":
			return "an attribute and its value must not be empty"
		case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "":
			return "attribute names are made of lower-case letters and digits"
		case name == "data":
			return "filters see the attributes of an event, not its data"
		}
	}
	return ""
}

func wrongList(list []Filter) string {
	if len(list) == 0 {
		return "want at least one filter"
	}
	return ""
}

func wrongExpression(text string) string {
	if _, err := cesql.Parse(text); err != nil {
		return err.Error()
	}
	return ""
}
