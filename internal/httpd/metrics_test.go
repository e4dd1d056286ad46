package httpd_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/internal/tracetest"
)

const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// ask sends a GET with one header.
func ask(t *testing.T, url, key, value string) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(key, value)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// broken is a metric that cannot be told just now.
type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc }
func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.desc, errors.New("the database does not answer"))
}

func TestFormsOfMetrics(t *testing.T) {
	collector := tracetest.Start(t)
	r := env.NewReader(env.Map(map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}))
	tracer := trace.New(trace.ConfigFromEnv(r, "test"), slog.New(slog.DiscardHandler))
	defer func() { tracer.Close(time.Now().Add(time.Minute)) }()
	s, _ := start(t, func(s *httpd.Server) {
		s.Registry().MustRegister(broken{prometheus.NewDesc("broken", "B.", nil, nil)})
		route := func(*http.Request) string { return "/x" }
		s.Handle(httpd.Instrument(s.Registry(), tracer, "test", route)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	})
	ask(t, "http://"+s.Addr().String()+"/x", "Traceparent", traced)
	url := "http://" + s.OpsAddr().String() + "/metrics"

	if _, _, text := ask(t, url, "Accept", "application/openmetrics-text; version=1.0.0"); !strings.Contains(text, ` # {trace_id="0af7651916cd43dd8448eb211c80319c"} `) {
		t.Errorf("OpenMetrics has no exemplar:\n%s", text)
	}
	status, header, text := ask(t, url, "Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	if status != http.StatusOK {
		t.Fatalf("metrics with one that cannot be told = %d, want the others and 200", status)
	}
	decoder := expfmt.NewDecoder(strings.NewReader(text), expfmt.ResponseFormat(header))
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); err != nil {
			t.Fatalf("no native histogram in the protobuf form: %v", err)
		}
		if f.GetName() == "taskwire_http_request_seconds" {
			if h := f.GetMetric()[0].GetHistogram(); len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) != 15 {
				t.Errorf("histogram with %d native spans and %d fixed bounds, want one or more, and 15", len(h.GetPositiveSpan()), len(h.GetBucket()))
			}
			return
		}
	}
}
