package filter

import (
	"fmt"
	"strconv"

	"github.com/taskwire/taskwire/internal/event"
)

// Verdict is what a filter says about an event, and why.
type Verdict struct {
	Filter  string    `json:"filter"` // its place: filters[0].any[1].exact
	Match   bool      `json:"match"`
	Reason  string    `json:"reason"`
	Error   string    `json:"error,omitempty"`   // of an sql filter, which is why it is false
	Filters []Verdict `json:"filters,omitempty"` // of the filters in it, all of them
}

// Explain returns a verdict for each filter. The event passes if all of them match.
func (m *Matcher) Explain(e event.Event) []Verdict { return explain(m.filters, e, "filters") }

func explain(filters []node, e event.Event, place string) []Verdict {
	verdicts := make([]Verdict, len(filters))
	for i := range filters {
		verdicts[i] = filters[i].explain(e, place+"["+strconv.Itoa(i)+"]")
	}
	return verdicts
}

// explain takes what it says from match, so that it cannot say anything else.
func (n *node) explain(e event.Event, place string) Verdict {
	v := Verdict{Filter: place + "." + string(n.dialect)}
	matches, err := n.match(subject{event: e})
	v.Match = matches
	switch n.dialect {
	case all, anyOf:
		v.Filters = explain(n.filters, e, v.Filter)
		v.Reason = n.reason(matches, v.Filters)
	case not:
		v.Filters = []Verdict{n.filters[0].explain(e, v.Filter)}
		v.Reason = v.Filters[0].Reason
	case sql:
		v.Reason = "the expression is " + strconv.FormatBool(matches)
		if err != nil {
			v.Error = err.Error()
			v.Reason = v.Error
		}
	default:
		v.Reason = n.compared(e)
	}
	return v
}

// reason is that of the inner filter that decides.
func (n *node) reason(matches bool, inner []Verdict) string {
	for i, v := range inner {
		if v.Match == matches && matches == (n.dialect == anyOf) {
			return fmt.Sprintf("filter %d of %d decides: %s", i+1, len(inner), v.Reason)
		}
	}
	if matches {
		return fmt.Sprintf("all of %d filters match", len(inner))
	}
	return fmt.Sprintf("none of %d filters matches", len(inner))
}

// compared describes the first attribute that differs, or the last one if none does.
func (n *node) compared(e event.Event) (reason string) {
	verb := map[dialect][2]string{exact: {"is", "is not"}, prefix: {"begins with", "does not begin with"}, suffix: {"ends with", "does not end with"}}[n.dialect]
	for _, p := range n.pairs {
		have, ok := event.Attribute(e, p.name)
		switch {
		case !ok:
			return "the event has no attribute " + p.name
		case !holds(n.dialect, have, p.value):
			return fmt.Sprintf("%s %q %s %q", p.name, have, verb[1], p.value)
		}
		reason = fmt.Sprintf("%s %q %s %q", p.name, have, verb[0], p.value)
	}
	return reason
}
