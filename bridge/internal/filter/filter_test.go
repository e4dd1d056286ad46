package filter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/event"
)

type attrs = map[string]string

const sample = `{"specversion":"1.0","id":"1","source":"task-api","type":"task.created","subject":"t-1","taskversion":3,"urgent":true,"time":"2026-01-02T03:04:05+01:00"}`

func parse(t testing.TB, text string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func matcher(t interface{ Fatal(args ...any) }, filters ...filter.Filter) *filter.Matcher {
	m, err := filter.New(filters)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMatch(t *testing.T) {
	e := parse(t, sample)
	var outline event.Outline
	if !outline.Read(event.Structured("", []byte(sample))) {
		t.Fatal("the sample has no outline")
	}
	yes, no := filter.Filter{Exact: attrs{"id": "1"}}, filter.Filter{Exact: attrs{"id": "2"}}
	failing := filter.Filter{SQL: "gone = 'x'"}
	for name, c := range map[string]struct {
		f          filter.Filter
		want, fail bool
	}{
		"exact":                   {filter.Filter{Exact: attrs{"type": "task.created", "taskversion": "3", "urgent": "true"}}, true, false},
		"exact, one differs":      {filter.Filter{Exact: attrs{"type": "task.created", "source": "x"}}, false, false},
		"exact has case":          {filter.Filter{Exact: attrs{"type": "Task.created"}}, false, false},
		"exact is no beginning":   {filter.Filter{Exact: attrs{"type": "task"}}, false, false},
		"canonical time":          {filter.Filter{Exact: attrs{"time": "2026-01-02T02:04:05Z"}}, true, false},
		"prefix":                  {filter.Filter{Prefix: attrs{"type": "task.", "subject": "t-1"}}, true, false},
		"prefix, one differs":     {filter.Filter{Prefix: attrs{"type": "task.", "subject": "1"}}, false, false},
		"suffix":                  {filter.Filter{Suffix: attrs{"type": ".created", "subject": "t-1"}}, true, false},
		"suffix, one differs":     {filter.Filter{Suffix: attrs{"type": ".created", "subject": "t"}}, false, false},
		"attribute not there":     {filter.Filter{Prefix: attrs{"actor": "a"}}, false, false},
		"not, not there":          {filter.Filter{Not: &filter.Filter{Exact: attrs{"actor": "a"}}}, true, false},
		"not":                     {filter.Filter{Not: &yes}, false, false},
		"not not":                 {filter.Filter{Not: &filter.Filter{Not: &yes}}, true, false},
		"types":                   {filter.Types([]string{"task.updated", "task.created"}), true, false},
		"other types":             {filter.Types([]string{"task.updated", "task"}), false, false},
		"all":                     {filter.Filter{All: []filter.Filter{yes, yes}}, true, false},
		"all but one":             {filter.Filter{All: []filter.Filter{yes, no}}, false, false},
		"any":                     {filter.Filter{Any: []filter.Filter{no, yes}}, true, false},
		"none":                    {filter.Filter{Any: []filter.Filter{no, no}}, false, false},
		"nested":                  {filter.Filter{All: []filter.Filter{{Any: []filter.Filter{no, {Not: &no}}}, {SQL: "taskversion > 2 AND urgent"}}}, true, false},
		"sql":                     {filter.Filter{SQL: "type LIKE 'task.%' AND taskversion = 3"}, true, false},
		"sql is false":            {filter.Filter{SQL: "taskversion > 3"}, false, false},
		"sql fails":               {failing, false, true},
		"sql fails over its true": {filter.Filter{SQL: "NOT 10"}, false, true},
		"sql of no Boolean":       {filter.Filter{SQL: "taskversion"}, false, true},
		"sql of the text true":    {filter.Filter{SQL: "'true'"}, false, true},
		"not of one that fails":   {filter.Filter{Not: &failing}, true, true}, // it is false
		"any with one that fails": {filter.Filter{Any: []filter.Filter{failing, yes}}, true, true},
		"any before one":          {filter.Filter{Any: []filter.Filter{yes, failing}}, true, false},
		"all with one that fails": {filter.Filter{All: []filter.Filter{yes, failing}}, false, true},
	} {
		got, err := matcher(t, c.f).Match(e)
		if got != c.want || (err != nil) != c.fail {
			t.Errorf("%s: Match = %v, %v, want %v, failing %v", name, got, err, c.want, c.fail)
		}
		if got, ok := matcher(t, c.f).MatchOutline(&outline); ok == hasSQL(c.f) || ok && got != c.want {
			t.Errorf("%s: MatchOutline = %v, %v, want %v", name, got, ok, c.want)
		}
	}
	if ok, err := matcher(t).Match(e); !ok || err != nil {
		t.Errorf("Match without filters = %v, %v, want true", ok, err)
	}
	if ok, _ := matcher(t, yes, no).Match(e); ok {
		t.Error("Match with a filter that does not = true")
	}
}

func hasSQL(f filter.Filter) bool {
	return f.SQL != "" || f.Not != nil && hasSQL(*f.Not) || slices.ContainsFunc(f.All, hasSQL) || slices.ContainsFunc(f.Any, hasSQL)
}

func TestMistakes(t *testing.T) {
	const one = "want exactly one of exact, prefix, suffix, all, any, not, sql; have "
	for name, c := range map[string]struct {
		f            filter.Filter
		member, text string
	}{
		"nothing":       {filter.Filter{}, "", one + "none"},
		"two":           {filter.Filter{Exact: attrs{"type": "x"}, SQL: "TRUE"}, "", one + "exact and sql"},
		"empty value":   {filter.Filter{Exact: attrs{"type": ""}}, "exact", "an attribute and its value must not be empty"},
		"empty name":    {filter.Filter{Suffix: attrs{"": "x"}}, "suffix", "an attribute and its value must not be empty"},
		"empty map":     {filter.Filter{Prefix: attrs{}}, "prefix", "want at least one attribute with its value"},
		"no such name":  {filter.Filter{Exact: attrs{"Type": "x"}}, "exact", "attribute names are made of lower-case letters and digits"},
		"data":          {filter.Filter{Exact: attrs{"data": "x"}}, "exact", "filters see the attributes of an event, not its data"},
		"empty any":     {filter.Filter{Any: []filter.Filter{}}, "any", "want at least one filter"},
		"empty all":     {filter.Filter{All: []filter.Filter{}}, "all", "want at least one filter"},
		"no expression": {filter.Filter{SQL: "type ="}, "sql", "character 7: want a value, have the end"},
		"no function":   {filter.Filter{SQL: "LEN(type) = 1"}, "sql", "character 1: there is no function LEN"},
	} {
		if diff := cmp.Diff([]filter.Mistake{{Member: c.member, Text: c.text}}, c.f.Mistakes()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if m, err := filter.New([]filter.Filter{{Not: &c.f}}); err == nil || m != nil {
			t.Errorf("%s: New takes it within another", name)
		}
	}
}

func TestExplain(t *testing.T) {
	m := matcher(t,
		filter.Filter{Exact: attrs{"id": "1", "type": "task.updated"}},
		filter.Filter{Any: []filter.Filter{{Prefix: attrs{"actor": "a"}}, {SQL: "actor = 'a'"}, {Not: &filter.Filter{Suffix: attrs{"type": "created"}}}}},
		filter.Filter{All: []filter.Filter{{SQL: "taskversion = 3"}, {SQL: "subject"}}},
		filter.Filter{Any: []filter.Filter{{Exact: attrs{"id": "2"}}, {Prefix: attrs{"type": "task"}}}},
	)
	want := []filter.Verdict{
		{Filter: "filters[0].exact", Reason: `type "task.created" is not "task.updated"`},
		{Filter: "filters[1].any", Reason: "none of 3 filters matches", Filters: []filter.Verdict{
			{Filter: "filters[1].any[0].prefix", Reason: "the event has no attribute actor"},
			{Filter: "filters[1].any[1].sql", Reason: "character 1: the event has no attribute actor", Error: "character 1: the event has no attribute actor"},
			{Filter: "filters[1].any[2].not", Reason: `type "task.created" ends with "created"`, Filters: []filter.Verdict{
				{Filter: "filters[1].any[2].not.suffix", Match: true, Reason: `type "task.created" ends with "created"`},
			}},
		}},
		{Filter: "filters[2].all", Reason: `filter 2 of 2 decides: the expression gives String "t-1", and a filter needs a Boolean`, Filters: []filter.Verdict{
			{Filter: "filters[2].all[0].sql", Match: true, Reason: "the expression is true"},
			{Filter: "filters[2].all[1].sql", Reason: `the expression gives String "t-1", and a filter needs a Boolean`, Error: `the expression gives String "t-1", and a filter needs a Boolean`},
		}},
		{Filter: "filters[3].any", Match: true, Reason: `filter 2 of 2 decides: type "task.created" begins with "task"`, Filters: []filter.Verdict{
			{Filter: "filters[3].any[0].exact", Reason: `id "1" is not "2"`},
			{Filter: "filters[3].any[1].prefix", Match: true, Reason: `type "task.created" begins with "task"`},
		}},
	}
	if diff := cmp.Diff(want, m.Explain(parse(t, sample))); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
}

// TestEveryFilterMatchesItsOracle draws nested filters and events without and with
// the attributes they ask for.
func TestEveryFilterMatchesItsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := attrs{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
		for _, name := range []string{"a", "b", "id", "type"} {
			if rapid.Bool().Draw(t, "set") {
				have[name] = words.Draw(t, name)
			}
		}
		var text strings.Builder
		for name, value := range have {
			fmt.Fprintf(&text, ",%q:%q", name, value)
		}
		e, err := event.Parse([]byte("{" + text.String()[1:] + "}"))
		if err != nil {
			t.Fatal(err)
		}
		filters := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) drawn { return draw(t, have, 3) }), 0, 3).Draw(t, "filters")
		want, fails := true, false
		var list []filter.Filter
		for _, d := range filters {
			fails = fails || want && d.fails
			want = want && d.matches
			list = append(list, d.f)
		}
		m := matcher(t, list...)
		if got, err := m.Match(e); got != want || (err != nil) != fails {
			t.Fatalf("Match = %v, %v, want %v, failing %v", got, err, want, fails)
		}
		explained := true
		for _, v := range m.Explain(e) {
			explained = explained && v.Match
		}
		if explained != want {
			t.Fatalf("Explain says %v, want %v", explained, want)
		}
	})
}

var words = rapid.StringOfN(rapid.RuneFrom([]rune("xyü")), 1, 3, -1)

// drawn is a filter with what it says about an event.
type drawn struct {
	f              filter.Filter
	matches, fails bool
}

func draw(t *rapid.T, have attrs, depth int) drawn {
	dialects := []string{"exact", "prefix", "suffix", "sql"}
	if depth > 0 {
		dialects = append(dialects, "all", "any", "not")
	}
	dialect := rapid.SampledFrom(dialects).Draw(t, "dialect")
	switch dialect {
	case "not":
		inner := draw(t, have, depth-1)
		return drawn{filter.Filter{Not: &inner.f}, !inner.matches, inner.fails}
	case "all", "any":
		d := drawn{matches: dialect == "all"}
		var list []filter.Filter
		for range rapid.IntRange(1, 3).Draw(t, "filters") {
			inner := draw(t, have, depth-1)
			list = append(list, inner.f)
			if d.matches == (dialect == "all") { // not decided yet
				d.matches, d.fails = inner.matches, d.fails || inner.fails
			}
		}
		if dialect == "all" {
			d.f.All = list
		} else {
			d.f.Any = list
		}
		return d
	}
	want := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "id", "type"}), words, 1, 2).Draw(t, "attributes")
	d := drawn{matches: true}
	var terms []string
	for name, value := range want {
		has, ok := have[name]
		terms = append(terms, name+" = '"+value+"'")
		switch dialect {
		case "exact":
			ok = ok && has == value
		case "prefix":
			ok = ok && len(has) >= len(value) && has[:len(value)] == value
		case "suffix":
			ok = ok && len(has) >= len(value) && has[len(has)-len(value):] == value
		case "sql":
			if d.fails = d.fails || d.matches && !ok; d.fails { // the first that is missing ends it
				d.matches = false
				continue
			}
			ok = has == value
		}
		d.matches = d.matches && ok
	}
	switch dialect {
	case "exact":
		d.f.Exact = want
	case "prefix":
		d.f.Prefix = want
	case "suffix":
		d.f.Suffix = want
	case "sql":
		d.f.SQL = strings.Join(terms, " AND ")
	}
	return d
}

func FuzzMatch(f *testing.F) {
	f.Add("type", "task.", "taskversion > 2 AND subject LIKE '_-%'")
	f.Add("time", "2026", "RIGHT(gone, -1) IN (id, 'x') OR NOT urgent")
	f.Fuzz(func(t *testing.T, name, value, expression string) {
		list := []filter.Filter{{Any: []filter.Filter{{Exact: attrs{name: value}}, {All: []filter.Filter{{Prefix: attrs{name: value}}, {Suffix: attrs{name: value}}}}, {Not: &filter.Filter{SQL: expression}}}}}
		m, err := filter.New(list)
		if err != nil {
			return
		}
		e := parse(t, sample)
		got, err := m.Match(e)
		v := m.Explain(e)[0]
		if v.Match != got {
			t.Fatalf("Match = %v, %v, but Explain says %+v", got, err, v)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	e := parse(b, sample)
	for name, f := range map[string]filter.Filter{
		"types":  filter.Types([]string{"task.completed", "task.created"}),
		"prefix": {Prefix: attrs{"type": "task.", "subject": "t-"}},
		"sql":    {SQL: "type LIKE 'task.%' AND subject NOT IN ('a', 'b') AND (taskversion > 2 OR actor = 'bob') AND NOT EXISTS gone"},
	} {
		m := matcher(b, f)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Match(e)
			}
		})
	}
}
