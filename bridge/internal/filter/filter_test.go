package filter_test

import (
	"testing"

	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/event"
)

type attrs = map[string]string

func TestMatch(t *testing.T) {
	e, err := event.Parse([]byte(`{"specversion":"1.0","id":"1","source":"task-api","type":"task.created","subject":"t-1","taskversion":3}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f    filter.Filter
		want bool
	}{
		"exact":               {filter.Filter{Exact: attrs{"type": "task.created", "taskversion": "3"}}, true},
		"exact, one differs":  {filter.Filter{Exact: attrs{"type": "task.created", "source": "x"}}, false},
		"prefix":              {filter.Filter{Prefix: attrs{"type": "task."}}, true},
		"suffix":              {filter.Filter{Suffix: attrs{"type": ".deleted"}}, false},
		"attribute not there": {filter.Filter{Prefix: attrs{"actor": ""}}, false},
		"not":                 {filter.Filter{Not: &filter.Filter{Exact: attrs{"type": "task.updated"}}}, true},
		"any":                 {filter.Types([]string{"task.updated", "task.created"}), true},
		"all":                 {filter.Filter{All: []filter.Filter{{Prefix: attrs{"type": "task."}}, {Exact: attrs{"subject": "t-2"}}}}, false},
	} {
		if got := filter.Match([]filter.Filter{c.f}, e); got != c.want {
			t.Errorf("%s: Match = %v, want %v", name, got, c.want)
		}
		if why := filter.Why([]filter.Filter{c.f}, e); (why == "") != c.want {
			t.Errorf("%s: Why = %q, want a reason only for an event that does not pass", name, why)
		}
	}
	if !filter.Match(nil, e) {
		t.Error("Match without filters = false, want true")
	}
}

func TestCheck(t *testing.T) {
	for name, f := range map[string]filter.Filter{
		"nothing":   {},
		"two":       {Exact: attrs{"type": "x"}, Prefix: attrs{"type": "x"}},
		"empty":     {Exact: attrs{"type": ""}},
		"sql":       {SQL: "TRUE"},
		"nested":    {Any: []filter.Filter{{}}},
		"empty any": {Any: []filter.Filter{}},
	} {
		if len(f.Check("filters[0]")) == 0 {
			t.Errorf("%s: Check accepts %v", name, f)
		}
	}
	if wrong := filter.Types([]string{"a"}).Check("f"); len(wrong) != 0 {
		t.Errorf("Check of the short form = %v, want no mistake", wrong)
	}
}
