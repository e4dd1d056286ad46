// Package filter decides which events a subscription wants, in the dialects of
// the CloudEvents Subscriptions API: exact, prefix, suffix, all, any, not.
package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/internal/event"
)

// Filter is one condition. Exactly one member is set.
type Filter struct {
	Exact  map[string]string `yaml:"exact,omitempty"`  // attribute to value; all must hold
	Prefix map[string]string `yaml:"prefix,omitempty"` // attribute to beginning
	Suffix map[string]string `yaml:"suffix,omitempty"` // attribute to end
	All    []Filter          `yaml:"all,omitempty"`
	Any    []Filter          `yaml:"any,omitempty"`
	Not    *Filter           `yaml:"not,omitempty"`
	SQL    string            `yaml:"sql,omitempty"` // CESQL, not supported yet
}

// Types is the short form: the event's type is one of types.
func Types(types []string) Filter {
	f := Filter{}
	for _, t := range types {
		f.Any = append(f.Any, Filter{Exact: map[string]string{"type": t}})
	}
	return f
}

// Check returns the mistakes in f; where is its place in the configuration.
func (f Filter) Check(where string) []string {
	var wrong []string
	set := 0
	for dialect, m := range map[string]map[string]string{"exact": f.Exact, "prefix": f.Prefix, "suffix": f.Suffix} {
		if m == nil {
			continue
		}
		set++
		for name, value := range m {
			if name == "" || value == "" {
				wrong = append(wrong, fmt.Sprintf("%s.%s: an attribute and its value must not be empty", where, dialect))
			}
		}
	}
	for dialect, list := range map[string][]Filter{"all": f.All, "any": f.Any} {
		if list == nil {
			continue
		}
		set++
		if len(list) == 0 {
			wrong = append(wrong, fmt.Sprintf("%s.%s: want at least one filter", where, dialect))
		}
		for i, sub := range list {
			wrong = append(wrong, sub.Check(fmt.Sprintf("%s.%s[%d]", where, dialect, i))...)
		}
	}
	if f.Not != nil {
		set++
		wrong = append(wrong, f.Not.Check(where+".not")...)
	}
	if f.SQL != "" {
		set++
		wrong = append(wrong, where+".sql: this dialect is not supported; use exact, prefix, suffix, all, any or not")
	}
	if set != 1 {
		wrong = append(wrong, fmt.Sprintf("%s: want exactly one of exact, prefix, suffix, all, any, not; have %d", where, set))
	}
	slices.Sort(wrong)
	return wrong
}

// Match reports whether e passes all filters. Without filters every event passes.
func Match(filters []Filter, e event.Event) bool {
	for i := range filters {
		if !filters[i].match(e) {
			return false
		}
	}
	return true
}

// Why describes the first filter that e does not pass; "" when it passes all.
func Why(filters []Filter, e event.Event) string {
	for _, f := range filters {
		if !f.match(e) {
			return f.String()
		}
	}
	return ""
}

func (f *Filter) match(e event.Event) bool {
	switch {
	case f.Exact != nil:
		return each(e, f.Exact, func(have, want string) bool { return have == want })
	case f.Prefix != nil:
		return each(e, f.Prefix, strings.HasPrefix)
	case f.Suffix != nil:
		return each(e, f.Suffix, strings.HasSuffix)
	case f.All != nil:
		return Match(f.All, e)
	case f.Any != nil:
		return slices.ContainsFunc(f.Any, func(sub Filter) bool { return sub.match(e) })
	case f.Not != nil:
		return !f.Not.match(e)
	}
	return true
}

// each reports whether holds is true for every wanted attribute. A missing attribute
// never matches.
func each(e event.Event, want map[string]string, holds func(have, want string) bool) bool {
	for name, value := range want {
		have, ok := event.Attribute(e, name)
		if !ok || !holds(have, value) {
			return false
		}
	}
	return true
}

func (f Filter) String() string {
	switch {
	case f.Exact != nil:
		return "exact " + pairs(f.Exact)
	case f.Prefix != nil:
		return "prefix " + pairs(f.Prefix)
	case f.Suffix != nil:
		return "suffix " + pairs(f.Suffix)
	case f.All != nil:
		return "all of (" + list(f.All) + ")"
	case f.Any != nil:
		return "any of (" + list(f.Any) + ")"
	case f.Not != nil:
		return "not " + f.Not.String()
	}
	return "nothing"
}

func pairs(m map[string]string) string {
	var out []string
	for name, value := range m {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

func list(fs []Filter) string {
	var out []string
	for _, f := range fs {
		out = append(out, f.String())
	}
	return strings.Join(out, "; ")
}
