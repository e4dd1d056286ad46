package alerts_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const rulesFile = "../manifests/components/monitoring/alerts.yaml"

// elsewhere are the alerts whose condition cannot be made true here, with the reason.
var elsewhere = map[string]string{
	"TaskwireKafkaReplicas": "needs the metrics of a Kafka of several brokers, as Strimzi exports them",
	"TaskwireKafkaOffline":  "needs the metrics of a Kafka of several brokers, as Strimzi exports them",
}

// group is a group of rules as Prometheus reads it.
type group struct {
	Name  string           `json:"name"`
	Rules []map[string]any `json:"rules"`
}

func groups(t *testing.T) []group {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Spec struct{ Groups []group } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatalf("%s: %v", rulesFile, err)
	}
	if len(file.Spec.Groups) == 0 {
		t.Fatalf("%s has no rules", rulesFile)
	}
	return file.Spec.Groups
}

var (
	lookback = regexp.MustCompile(`(\[|offset )(\d+)([hm])\b`)
	horizon  = regexp.MustCompile(`(predict_linear\([^)]*?, \d+) \* (3600|86400)\)`)
	duration = regexp.MustCompile(`^(\d+)([hm])$`)
)

// shorten divides every time that a rule looks back, looks ahead or waits by 60. It
// leaves thresholds as they are, also those in seconds.
func shorten(expr, wait string) (string, string) {
	unit := map[string]string{"h": "m", "m": "s"}
	seconds := map[string]string{"3600": "60", "86400": "1440"}
	expr = lookback.ReplaceAllStringFunc(expr, func(s string) string {
		m := lookback.FindStringSubmatch(s)
		return m[1] + m[2] + unit[m[3]]
	})
	expr = horizon.ReplaceAllStringFunc(expr, func(s string) string {
		m := horizon.FindStringSubmatch(s)
		return m[1] + " * " + seconds[m[2]] + ")"
	})
	if m := duration.FindStringSubmatch(wait); m != nil {
		wait = m[1] + unit[m[2]]
	}
	return expr, wait
}

func TestShorten(t *testing.T) {
	for _, c := range [][4]string{
		{"sum(increase(x[15m])) > 300 or sum(x unless x offset 1h) > 60", "10m", "sum(increase(x[15s])) > 300 or sum(x unless x offset 1m) > 60", "10s"},
		{"min by (a) (predict_linear(x[6h], 3 * 86400)) < 0", "", "min by (a) (predict_linear(x[6m], 3 * 1440)) < 0", ""},
		{"predict_linear(x[6h], 6 * 3600)\nand y > 3600", "1h", "predict_linear(x[6m], 6 * 60)\nand y > 3600", "1m"},
	} {
		if expr, wait := shorten(c[0], c[1]); expr != c[2] || wait != c[3] {
			t.Errorf("shorten(%q, %q) = %q, %q, want %q, %q", c[0], c[1], expr, wait, c[2], c[3])
		}
	}
	// A unit or a form that shorten does not know would stay as long as it is.
	for _, g := range groups(t) {
		for _, r := range g.Rules {
			wait, _ := r["for"].(string)
			expr, short := shorten(fmt.Sprint(r["expr"]), wait)
			if short == wait && wait != "" || regexp.MustCompile(`\[\d+[hd]|offset \d+[hd]|\* (3600|86400)`).MatchString(expr) {
				t.Errorf("%v: shorten does not know its times: for %q, %s", r["alert"], wait, expr)
			}
		}
	}
}

// TestEachAlertIsShownOrNamed: `make alerts` shows each alert of the rules, or
// elsewhere says why not.
func TestEachAlertIsShownOrNamed(t *testing.T) {
	text, err := os.ReadFile("conditions_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var shown, known []string
	for _, m := range regexp.MustCompile(`(?m)^\t\{name: "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		shown = append(shown, m[1])
	}
	for _, g := range groups(t) {
		for _, r := range g.Rules {
			name, _ := r["alert"].(string)
			known = append(known, name)
			if _, named := elsewhere[name]; named == slices.Contains(shown, name) {
				t.Errorf("%s: shown = %v, named with a reason = %v, want one of them", name, !named, named)
			}
		}
	}
	docs, err := os.ReadFile("../docs/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(docs), "`make alerts`")
	for name := range elsewhere {
		shown = append(shown, name)
		if !strings.Contains(last, name) {
			t.Errorf("docs/runbooks/README.md does not say that `make alerts` leaves %s out", name)
		}
	}
	for _, name := range shown {
		if !slices.Contains(known, name) {
			t.Errorf("%s is no alert", name)
		}
	}
}
