package manifests_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// promtool returns the path of the version that the Makefile names; `make test`
// builds it.
func promtool(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`/(promtool-v[0-9.]+)`).FindSubmatch(text)
	if name == nil {
		t.Fatal("the Makefile has no PROMTOOL")
	}
	path, err := filepath.Abs(filepath.Join("../.cache/bin", string(name[1])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; make test builds it", err)
		}
		t.Skipf("%v; make test builds it", err)
	}
	return path
}

// alerting is a group of rules, as Prometheus itself reads it.
type alerting struct {
	Groups []struct {
		Name  string           `json:"name"`
		Rules []map[string]any `json:"rules"`
	} `json:"groups"`
}

// alarms returns the rules that the monitoring component deploys.
func alarms(t *testing.T) (a alerting) {
	t.Helper()
	o := find(t, render(t, "overlays/production"), "monitoring.coreos.com/v1/PrometheusRule taskwire")
	text, err := yaml.Marshal(o["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// try writes the rules beside their tests and runs promtool there.
func try(t *testing.T, tool string, rules alerting, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if annotations, ok := r["annotations"].(map[string]any); ok {
				delete(annotations, "runbook_url") // TestRunbooks has it
			}
		}
	}
	text, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"rules.yaml": text, "alerts.yaml": tests} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestAlertsFire: promtool accepts the rules, and each alert fires when it should
// and is silent when it should be.
func TestAlertsFire(t *testing.T) {
	tool, rules := promtool(t), alarms(t)
	if out, err := try(t, tool, rules, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	if out, err := try(t, tool, rules, "test", "rules", "alerts.yaml"); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}

// TestAlertsThatNeverFireAreFound: with any one of them switched off, the tests fail.
func TestAlertsThatNeverFireAreFound(t *testing.T) {
	tool := promtool(t)
	for i, rule := range alarms(t).Groups[0].Rules {
		name := rule["alert"].(string)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := alarms(t)
			rules.Groups[0].Rules[i]["expr"] = "vector(0) > 1"
			if out, err := try(t, tool, rules, "test", "rules", "alerts.yaml"); err == nil || !strings.Contains(out, name) {
				t.Errorf("promtool test rules with an alert that never fires: %v, want a failure\n%s", err, out)
			}
		})
	}
}

// TestEachAlertIsShownFiringAndSilent needs no promtool: it reads the tests alone.
func TestEachAlertIsShownFiringAndSilent(t *testing.T) {
	text, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Alerts []struct {
				Name string `json:"alertname"`
				Want []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	firing, silent, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range file.Tests {
		for _, a := range c.Alerts {
			firing[a.Name] = firing[a.Name] || len(a.Want) > 0
			silent[a.Name] = silent[a.Name] || len(a.Want) == 0
		}
	}
	for _, g := range alarms(t).Groups {
		for _, r := range g.Rules {
			name, _ := r["alert"].(string)
			known[name] = true
			if !firing[name] || !silent[name] {
				t.Errorf("%s is shown firing = %v, silent = %v", name, firing[name], silent[name])
			}
		}
	}
	for name := range firing {
		if !known[name] {
			t.Errorf("a test of %s, which is no alert", name)
		}
	}
}
