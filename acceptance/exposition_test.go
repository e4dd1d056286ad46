package acceptance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// described is a metric as SPEC.md has it.
type described struct {
	kind   string
	bounds []float64                 // of a histogram
	labels map[string]*regexp.Regexp // with the values that each may have
	of     []string                  // services
}

// free are the labels whose values SPEC.md does not list one by one. Nothing that
// a caller chooses may become one, or callers could fill the memory.
var free = map[string]*regexp.Regexp{
	"service":      regexp.MustCompile(`^(taskapi|bridge|notifier|auditor)$`),
	"route":        regexp.MustCompile(`^(none|((GET|HEAD|POST|PUT|PATCH|DELETE) )?/[a-z./{}*_-]*)$`),
	"code":         regexp.MustCompile(`^[1-5][0-9][0-9]$`),
	"subscription": regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`),
	"partition":    regexp.MustCompile(`^[0-9]{1,4}$`),
	"version":      regexp.MustCompile(`.`), "revision": regexp.MustCompile(``), "goversion": regexp.MustCompile(`^go`),
}

// metricsOfSpec reads the table below the heading "### Metrics" of SPEC.md.
func metricsOfSpec() (map[string]described, error) {
	text, err := os.ReadFile(filepath.Join(root(), "SPEC.md"))
	if err != nil {
		return nil, err
	}
	_, section, _ := strings.Cut(string(text), "\n### Metrics\n")
	section, _, _ = strings.Cut(section, "\n### ")
	all := map[string]described{}
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		if len(cells) != 5 || !strings.HasPrefix(name, "taskwire_") {
			continue
		}
		d, err := describe(strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3]))
		if err != nil {
			return nil, fmt.Errorf("SPEC.md, %s: %w", name, err)
		}
		if _, ok := all[name]; ok {
			return nil, fmt.Errorf("SPEC.md has %s twice", name)
		}
		all[name] = d
	}
	if len(all) == 0 {
		return nil, errors.New("SPEC.md has no table of metrics")
	}
	return all, nil
}

// describe reads "counter" or "histogram 0.001 to 8", "subscription, outcome=a/b" and
// "bridge, auditor". The bounds of a histogram double.
func describe(kind, labels, of string) (described, error) {
	d := described{labels: map[string]*regexp.Regexp{}, of: strings.Split(of, ", ")}
	var bounds string
	d.kind, bounds, _ = strings.Cut(kind, " ")
	if d.kind == "histogram" {
		from, to, _ := strings.Cut(bounds, " to ")
		first, err1 := strconv.ParseFloat(from, 64)
		last, err2 := strconv.ParseFloat(to, 64)
		if err := errors.Join(err1, err2); err != nil {
			return d, err
		}
		for b := first; b <= last*1.0001; b *= 2 {
			d.bounds = append(d.bounds, b)
		}
	}
	for label := range strings.SplitSeq(labels, ", ") {
		name, values, listed := strings.Cut(strings.ReplaceAll(label, "`", ""), "=")
		switch {
		case listed:
			d.labels[name] = regexp.MustCompile("^(" + strings.ReplaceAll(values, "/", "|") + ")$")
		case free[name] != nil:
			d.labels[name] = free[name]
		case name != "":
			return d, fmt.Errorf("the values of label %q are not listed", name)
		}
	}
	return d, nil
}

// holds returns what a service exposes otherwise than described.
func (d described) holds(service string, f *dto.MetricFamily) error {
	if got := strings.ToLower(f.GetType().String()); got != d.kind {
		return fmt.Errorf("%s is a %s, SPEC.md says %s", f.GetName(), got, d.kind)
	}
	if !slices.Contains(d.of, service) {
		return fmt.Errorf("%s has %s, SPEC.md says that %s do", service, f.GetName(), strings.Join(d.of, " and "))
	}
	var errs []error
	for _, m := range f.GetMetric() {
		names := map[string]bool{}
		for _, l := range m.GetLabel() {
			names[l.GetName()] = true
			if want := d.labels[l.GetName()]; want == nil || !want.MatchString(l.GetValue()) {
				errs = append(errs, fmt.Errorf("%s{%s=%q} is not in SPEC.md", f.GetName(), l.GetName(), l.GetValue()))
			}
		}
		if len(names) != len(d.labels) {
			errs = append(errs, fmt.Errorf("%s has the labels %v, SPEC.md says %v", f.GetName(), slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(d.labels))))
		}
		var bounds []float64
		for _, b := range m.GetHistogram().GetBucket() {
			bounds = append(bounds, b.GetUpperBound())
		}
		if d.kind == "histogram" && !doubling(bounds, d.bounds) {
			errs = append(errs, fmt.Errorf("%s has the bounds %v, SPEC.md says %v", f.GetName(), bounds, d.bounds))
		}
	}
	return errors.Join(errs...)
}

// doubling compares bounds as the text form has them, with +Inf at their end.
func doubling(got, want []float64) bool {
	return len(got) == len(want)+1 && slices.EqualFunc(got[:len(want)], want, func(a, b float64) bool { return a > b*0.9999 && a < b*1.0001 })
}

// exposed are the metrics that any script has seen.
var exposed struct {
	sync.Mutex
	names map[string]bool // made by the first
}

// examine holds the metrics of the services that run to SPEC.md.
func (w *world) examine(ctx context.Context) error {
	spec, err := metricsOfSpec()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var errs []error
	for i, service := range services() {
		status, body, err := get(ctx, "http://"+w.address(9000+i)+"/metrics")
		if err != nil || status != http.StatusOK {
			continue // the script has stopped it
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(body))
		if err != nil {
			return fmt.Errorf("metrics of %s: %w", service, err)
		}
		for name, f := range families {
			if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
				continue // the Prometheus client's own
			}
			d, ok := spec[name]
			if !ok {
				errs = append(errs, fmt.Errorf("%s of %s is not in SPEC.md", name, service))
				continue
			}
			errs = append(errs, d.holds(service, f))
			exposed.Lock()
			if exposed.names == nil {
				exposed.names = map[string]bool{}
			}
			exposed.names[name] = true
			exposed.Unlock()
		}
	}
	return errors.Join(errs...)
}

// missing returns the metrics of SPEC.md that no script has seen, after a run of all.
func missing() error {
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.list").Value.String() != "" {
		return nil
	}
	spec, err := metricsOfSpec()
	if err != nil {
		return err
	}
	var unseen []string
	for _, name := range slices.Sorted(maps.Keys(spec)) {
		if !exposed.names[name] {
			unseen = append(unseen, name)
		}
	}
	if len(unseen) > 0 {
		return fmt.Errorf("no service had these metrics of SPEC.md in any script: %s", strings.Join(unseen, ", "))
	}
	return nil
}

func TestMetricsAreHeldToSpec(t *testing.T) {
	parse := func(text string) *dto.MetricFamily {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return families["x"]
	}
	for _, c := range []struct{ kind, labels, text, want string }{
		{"counter", "`code`", "# TYPE x counter\nx{code=\"200\"} 1\n", ""},
		{"counter", "`reason=a/b`", "# TYPE x counter\nx{reason=\"b\"} 1\n", ""},
		{"counter", "", "# TYPE x counter\nx 1\n", ""},
		{"histogram 1 to 4", "", "# TYPE x histogram\nx_bucket{le=\"1\"} 0\nx_bucket{le=\"2\"} 0\nx_bucket{le=\"4\"} 0\nx_bucket{le=\"+Inf\"} 0\nx_sum 0\nx_count 0\n", ""},
		{"histogram 1 to 8", "", "# TYPE x histogram\nx_bucket{le=\"1\"} 0\nx_bucket{le=\"2\"} 0\nx_bucket{le=\"4\"} 0\nx_bucket{le=\"+Inf\"} 0\nx_sum 0\nx_count 0\n", "x has the bounds"},
		{"counter", "", "# TYPE x gauge\nx 1\n", "x is a gauge"},
		{"counter", "", "# TYPE x counter\nx{code=\"200\"} 1\n", `x{code="200"} is not in`},
		{"counter", "`code`, `service`", "# TYPE x counter\nx{code=\"200\"} 1\n", "x has the labels [code]"},
		{"counter", "`reason=a/b`", "# TYPE x counter\nx{reason=\"c\"} 1\n", `x{reason="c"} is not in`},
		{"counter", "`route`", "# TYPE x counter\nx{route=\"/tasks/0198f3f7-3a2b-7c4d-8e5f-0123456789ab\"} 1\n", "is not in"},
	} {
		d, err := describe(c.kind, c.labels, "bridge")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.holds("bridge", parse(c.text)); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.labels, err, c.want)
		}
	}
	d, _ := describe("counter", "", "auditor")
	if err := d.holds("bridge", parse("# TYPE x counter\nx 1\n")); err == nil {
		t.Error("a metric of another service was accepted")
	}
	if _, err := describe("counter", "`whatever`", "bridge"); err == nil {
		t.Error("a label without a list of its values was accepted")
	}
}
