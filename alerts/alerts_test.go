//go:build alerts && linux

// Package alerts_test shows each alert of manifests/components/monitoring firing in
// a running system, and then no longer:
//
//	make alerts
//
// The services run as processes, on the embedded broker, and a real Prometheus
// scrapes them every second with the rules as they are deployed, but for their
// times, which are divided by 60 (shorten).
package alerts_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"

	"github.com/taskwire/taskwire/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAlerts takes six minutes: TaskwireBridgeOldestUnacked waits five of them.
func TestAlerts(t *testing.T) {
	s := open(t)
	s.create(t, 201)
	s.healthy(t)

	// These two are true from here on, while the others come and go.
	s.archive.answer(503)
	s.old(t)

	var shown []condition
	for _, c := range conditions {
		t.Run(c.name, func(t *testing.T) {
			shown = append(shown, c)
			s.fires(t, c)
		})
	}
	for _, c := range shown {
		t.Run("resolved/"+c.name, func(t *testing.T) {
			s.await(t, longer, c.name+" fires no longer", func() bool { return s.firing(t, c) == nil })
		})
	}
	if len(shown) == len(conditions) && !t.Failed() {
		s.healthy(t)
	}
}

// healthy waits until nothing has fired for as long as the longest rule takes. A busy
// machine may miss a few scrapes before. The forecast of the volume has seen only the
// first writes, or what the test wrote.
func (s *system) healthy(t *testing.T) {
	t.Helper()
	since := time.Now()
	s.await(t, patience, "nothing has fired for 15 s", func() bool {
		for _, a := range s.alerts(t) {
			if name := a.Labels["alertname"]; a.State == "firing" && name != "TaskwireVolumeFilling" {
				t.Logf("%s fires though nothing is wrong", name)
				since = time.Now()
			}
		}
		return time.Since(since) > 15*time.Second
	})
}

func (s *system) fires(t *testing.T, c condition) {
	began, limit := time.Now(), longer
	if c.begin != nil {
		s.await(t, patience, c.name+" is silent", func() bool { return s.firing(t, c) == nil })
		c.begin(t, s)
		began, limit = time.Now(), patience
	}
	var got *alert
	s.await(t, limit, c.name+" fires", func() bool { got = s.firing(t, c); return got != nil })
	t.Logf("after %v: %s", time.Since(began).Round(time.Second), got.Annotations["summary"])
	for name, text := range got.Annotations {
		if strings.Contains(text, "<no value>") || strings.Contains(text, "<error expanding template") {
			t.Errorf("%s: %s", name, text)
		}
	}
	s.calm()
	if c.end != nil {
		c.end(t, s)
	}
}

// alert is one that Prometheus reports, pending or firing.
type alert struct {
	Labels, Annotations map[string]string
	State, Value        string
}

func (s *system) firing(t *testing.T, c condition) *alert {
	t.Helper()
	for _, a := range s.alerts(t) {
		value, err := strconv.ParseFloat(a.Value, 64)
		if a.State == "firing" && a.Labels["alertname"] == c.name && includes(a.Labels, c.labels) && err == nil && (c.value == nil || c.value(value)) {
			return &a
		}
	}
	return nil
}

func includes(all, some map[string]string) bool {
	for k, v := range some {
		if all[k] != v {
			return false
		}
	}
	return true
}

func (s *system) alerts(t *testing.T) []alert {
	t.Helper()
	var answer struct{ Data struct{ Alerts []alert } }
	s.ask(t, "/api/v1/alerts", &answer)
	return answer.Data.Alerts
}

// awaitScrape returns when Prometheus has the present process of a service.
func (s *system) awaitScrape(t *testing.T, name string) {
	t.Helper()
	query := fmt.Sprintf(`up{app_kubernetes_io_name=%q} == 1 and on () (time() - timestamp(up{app_kubernetes_io_name=%[1]q}) < 5)`, name)
	since := time.Now()
	s.await(t, patience, "Prometheus has scraped "+name, func() bool {
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		s.ask(t, "/api/v1/query?query="+url.QueryEscape("timestamp("+query+")"), &answer)
		if len(answer.Data.Result) == 0 {
			return false
		}
		at, err := strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
		return err == nil && at*1000 > float64(since.UnixMilli())
	})
}

func (s *system) ask(t *testing.T, path string, answer any) {
	t.Helper()
	resp, err := client.Get(s.prometheus + path)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("GET %s%s: %s", s.prometheus, path, resp.Status)
	}
	must(t, json.NewDecoder(resp.Body).Decode(answer))
}

// monitor starts Prometheus, which scrapes the services under the labels that the
// PodMonitor gives them.
func (s *system) monitor(t *testing.T) {
	t.Helper()
	program := os.Getenv("PROMETHEUS")
	if program == "" {
		t.Fatal("PROMETHEUS is not set; make alerts builds it and sets it")
	}
	rules := groups(t)
	for _, g := range rules {
		for _, r := range g.Rules {
			wait, _ := r["for"].(string)
			if r["expr"], wait = shorten(r["expr"].(string), wait); wait != "" {
				r["for"] = wait
			}
		}
	}
	var targets []map[string]any
	for _, v := range s.services {
		targets = append(targets, map[string]any{"targets": []string{v.ops}, "labels": map[string]string{"app_kubernetes_io_name": v.program}})
	}
	for name, content := range map[string]any{
		"rules.yaml": map[string]any{"groups": rules},
		"prometheus.yaml": map[string]any{
			"global":         map[string]string{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
			"rule_files":     []string{"rules.yaml"},
			"scrape_configs": []map[string]any{{"job_name": "taskwire", "static_configs": targets}},
		},
	} {
		text, err := yaml.Marshal(content)
		must(t, err)
		s.write(t, name, string(text))
	}
	addr := freeport.Addr()
	s.prometheus = "http://" + addr
	s.scraper = s.run(t, "prometheus", program, nil, "--config.file="+s.path("prometheus.yaml"), "--storage.tsdb.path="+s.path("prometheus"), "--web.listen-address="+addr)
	must(t, s.scraper.AwaitReady(t.Context(), s.prometheus+"/-/ready"))
}

func (s *system) path(name string) string { return filepath.Join(s.dir, name) }
