package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metric is a condition on the sum of all series of one name that have the
// labels, on whichever services have it. A histogram counts its observations.
type metric struct {
	name    string
	labels  map[string]string
	compare string // one of comparisons
	value   float64
}

var comparisons = []string{">=", "<=", ">", "<"}

// parseMetric reads NAME [LABEL=VALUE ...] N, where N may begin with a comparison.
func parseMetric(args []string) (metric, error) {
	if len(args) < 2 {
		return metric{}, errors.New("usage: await metric NAME [LABEL=VALUE ...] N")
	}
	m := metric{name: args[0], labels: map[string]string{}}
	last := len(args) - 1
	for _, arg := range args[1:last] {
		label, value, ok := strings.Cut(arg, "=")
		if !ok {
			return metric{}, fmt.Errorf("label %q: want LABEL=VALUE", arg)
		}
		m.labels[label] = value
	}
	number := args[last]
	for _, c := range comparisons {
		if rest, ok := strings.CutPrefix(number, c); ok {
			m.compare, number = c, rest
			break
		}
	}
	var err error
	if m.value, err = strconv.ParseFloat(number, 64); err != nil {
		return metric{}, fmt.Errorf("value %q: want a number, or one after >=, <=, > or <", args[last])
	}
	return m, nil
}

func (m metric) String() string {
	s := m.name
	for _, label := range slices.Sorted(maps.Keys(m.labels)) {
		s += " " + label + "=" + m.labels[label]
	}
	return s
}

// sum adds up the matching series of a service's metrics, and says how many there are.
func (m metric) sum(exposition io.Reader) (sum float64, series int, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(exposition)
	if err != nil {
		return 0, 0, fmt.Errorf("parse the metrics: %w", err)
	}
	for _, s := range families[m.name].GetMetric() {
		if m.matches(s) {
			sum += value(s)
			series++
		}
	}
	return sum, series, nil
}

func (m metric) matches(s *dto.Metric) bool {
	found := 0
	for _, pair := range s.GetLabel() {
		if want, ok := m.labels[pair.GetName()]; ok {
			if pair.GetValue() != want {
				return false
			}
			found++
		}
	}
	return found == len(m.labels)
}

func value(s *dto.Metric) float64 {
	switch {
	case s.Counter != nil:
		return s.GetCounter().GetValue()
	case s.Gauge != nil:
		return s.GetGauge().GetValue()
	case s.Histogram != nil:
		return float64(s.GetHistogram().GetSampleCount())
	}
	return s.GetUntyped().GetValue()
}

// holds returns nil when the sum is as wanted.
func (m metric) holds(sum float64, series int) error {
	if series == 0 {
		return fmt.Errorf("no service has a series %v", m)
	}
	ok := map[string]bool{"": sum == m.value, ">=": sum >= m.value, "<=": sum <= m.value, ">": sum > m.value, "<": sum < m.value}[m.compare]
	if !ok {
		return fmt.Errorf("%v = %v, want %s%v", m, sum, m.compare, m.value)
	}
	return nil
}

// metric asks all services that answer; those that are down have no series.
func (w *world) metric(ctx context.Context, m metric) error {
	var sum float64
	var series int
	for i := range services() {
		status, body, err := get(ctx, "http://"+w.address(9000+i)+"/metrics")
		if err != nil || status != http.StatusOK {
			continue
		}
		s, n, err := m.sum(strings.NewReader(body))
		if err != nil {
			return fatal(err)
		}
		sum, series = sum+s, series+n
	}
	return m.holds(sum, series)
}

func TestAwaitMetric(t *testing.T) {
	const exposition = `# TYPE lag gauge
lag{subscription="audit",partition="0"} 2
lag{subscription="audit",partition="1"} 1
lag{subscription="notify",partition="0"} 0
# TYPE posts_total counter
posts_total 5
# TYPE seconds histogram
seconds_bucket{le="1"} 3
seconds_bucket{le="+Inf"} 4
seconds_sum 2.5
seconds_count 4
# TYPE old untyped
old{label="a b\"c"} 1.5
`
	for args, want := range map[string]string{
		"lag|subscription=audit|3":              "",
		"lag|subscription=audit|partition=0|2":  "",
		"lag|subscription=audit|partition=0|>2": "lag partition=0 subscription=audit = 2, want >2",
		"lag|3":                                 "",
		"lag|subscription=notify|0":             "",
		"lag|subscription=audit|0":              "lag subscription=audit = 3, want 0",
		"lag|subscription=other|0":              "no service has a series lag subscription=other",
		"lag|topic=t|0":                         "no service has a series lag topic=t",
		"posts_total|>=5":                       "",
		"posts_total|>=6":                       "posts_total = 5, want >=6",
		"posts_total|<6":                        "",
		"posts_total|<=4":                       "posts_total = 5, want <=4",
		"posts_total|>4":                        "",
		"posts|5":                               "no service has a series posts",
		"seconds|4":                             "",
		`old|label=a b"c|1.5`:                   "",
		"posts_total|five":                      `value "five"`,
		"posts_total|=5|5":                      "no service has a series",
		"posts_total|label|5":                   `label "label"`,
		"posts_total":                           "usage:",
	} {
		m, err := parseMetric(strings.Split(args, "|"))
		if err == nil {
			var sum float64
			var series int
			if sum, series, err = m.sum(strings.NewReader(exposition)); err == nil {
				err = m.holds(sum, series)
			}
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("await metric %s = %v, want %q", args, err, want)
		}
	}
	if _, _, err := (metric{name: "x"}).sum(strings.NewReader("not { metrics\n")); err == nil {
		t.Error("sum of a text that is no exposition = nil, want an error")
	}
}
