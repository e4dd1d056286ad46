package manifests_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const runbooks = "https://github.com/taskwire/taskwire/blob/main/docs/runbooks/"

// TestRunbooks: each alert has a page with the four answers that somebody needs who
// is woken by it, and each page is that of an alert.
func TestRunbooks(t *testing.T) {
	index, err := os.ReadFile("../docs/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, g := range alarms(t).Groups {
		for _, r := range g.Rules {
			name := r["alert"].(string)
			known[name] = true
			annotations := r["annotations"].(map[string]any)
			if got := annotations["runbook_url"]; got != runbooks+name+".md" {
				t.Errorf("%s has the runbook_url %v, want %s%s.md", name, got, runbooks, name)
			}
			if severity := r["labels"].(map[string]any)["severity"]; severity != "critical" && severity != "warning" {
				t.Errorf("%s has the severity %v", name, severity)
			}
			if !strings.Contains(string(index), "["+name+"]("+name+".md)") {
				t.Errorf("docs/runbooks/README.md does not list %s", name)
			}
		}
	}
	pages, err := filepath.Glob("../docs/runbooks/Taskwire*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pages {
		name := strings.TrimSuffix(filepath.Base(path), ".md")
		if !known[name] {
			t.Errorf("%s is the page of no alert", path)
		}
		delete(known, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var headings []string
		for _, h := range regexp.MustCompile(`(?m)^##? (.+)\n+ *[^#\s]`).FindAllStringSubmatch(string(text), -1) {
			headings = append(headings, h[1])
		}
		want := []string{name, "What it means for users", "How to see it", "What to do", "When to wake somebody"}
		if !slices.Equal(headings, want) {
			t.Errorf("%s answers %q, want %q", path, headings, want)
		}
		// Markdown takes an indented line for code only behind an empty one.
		if m := regexp.MustCompile(`(?m)^\S.*\n    \S.*`).Find(text); m != nil {
			t.Errorf("%s: code in the middle of a paragraph:\n%s", path, m)
		}
	}
	for name := range known {
		t.Errorf("%s has no page in docs/runbooks", name)
	}
}

// TestExpressionsUseMetricsOfSpec: a rule or a panel about a metric that no service
// has would be silent for ever. SPEC.md itself is held to the services.
func TestExpressionsUseMetricsOfSpec(t *testing.T) {
	spec, err := os.ReadFile("../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]bool{} // labels by metric
	row := regexp.MustCompile("(?m)^\\| `(taskwire_[a-z_]+)` \\| [a-z]+[^|]*\\|([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(string(spec), -1) {
		labels := map[string]bool{"le": true, "pod": true, "app_kubernetes_io_name": true} // the scrape's own
		for _, l := range regexp.MustCompile("`([a-z]+)").FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = true
		}
		known[m[1]] = labels
	}
	used := map[string]bool{}
	for where, expr := range expressions(t) {
		for _, m := range regexp.MustCompile(`(taskwire_[a-z_]+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
			name := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && known[name] == nil {
					name = base
				}
			}
			used[name] = true
			if known[name] == nil {
				t.Errorf("%s: %s is not in the table of SPEC.md", where, m[1])
				continue
			}
			for _, l := range regexp.MustCompile(`([a-z_]+)=~?"`).FindAllStringSubmatch(m[2], -1) {
				if !known[name][l[1]] {
					t.Errorf("%s: %s has no label %s in SPEC.md", where, name, l[1])
				}
			}
		}
	}
	if len(used) < 15 {
		t.Errorf("only %v are used: are the expressions read?", slices.Sorted(maps.Keys(used)))
	}
}

// expressions are those of the alerts and of the dashboard, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, g := range alarms(t).Groups {
		for _, r := range g.Rules {
			all[r["alert"].(string)] = r["expr"].(string)
		}
	}
	for _, p := range dashboard(t).Panels {
		for _, q := range p.Targets {
			all["panel "+p.Title+" "+q.RefID] = q.Expr
		}
	}
	return all
}

// board is what the tests look at of the dashboard.
type board struct {
	UID           string
	SchemaVersion int
	Panels        []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ Type, UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID      string
			Expr       string
			Datasource struct{ Type, UID string }
		}
		FieldConfig struct {
			Defaults struct{ Unit string }
		}
		Description string
	}
	Templating struct {
		List []struct{ Name, Type, Query string }
	}
}

func dashboard(t *testing.T) (b board) {
	t.Helper()
	text, err := os.ReadFile("components/monitoring/taskwire.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDashboard: what Grafana would drop or draw over each other without a word.
func TestDashboard(t *testing.T) {
	b := dashboard(t)
	if b.UID != "taskwire" || b.SchemaVersion < 39 || len(b.Templating.List) == 0 || b.Templating.List[0].Name != "datasource" {
		t.Errorf("uid %q, schema %d, variables %+v", b.UID, b.SchemaVersion, b.Templating.List)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range b.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q has the id %d of another", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Errorf("panel %q lies over %q or beyond the 24 columns", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if !slices.Contains([]string{"timeseries", "stat"}, p.Type) || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: type %q, description %q, unit %q, %d queries", p.Title, p.Type, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" || q.Datasource.Type != "prometheus" || q.RefID == "" || refs[q.RefID] {
				t.Errorf("panel %q, query %q: data source %+v", p.Title, q.RefID, q.Datasource)
			}
			refs[q.RefID] = true
		}
	}
}

// TestExpressionsOfTheDashboardParse: promtool reads them as recording rules.
func TestExpressionsOfTheDashboardParse(t *testing.T) {
	tool := promtool(t)
	var rules alerting
	if err := json.Unmarshal([]byte(`{"groups":[{"name":"dashboard"}]}`), &rules); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard(t).Panels {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h").Replace(q.Expr)
			rules.Groups[0].Rules = append(rules.Groups[0].Rules, map[string]any{"record": "panel:" + string(rune('a'+p.ID%26)) + q.RefID, "expr": expr, "labels": map[string]any{"panel": p.Title}})
		}
	}
	if out, err := try(t, tool, rules, "check", "rules", "rules.yaml"); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}
