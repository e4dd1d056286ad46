package trace_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/internal/tracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// config reads settings, which come in pairs.
func config(t testing.TB, settings ...string) *trace.Config {
	t.Helper()
	vars := map[string]string{}
	for i := 0; i < len(settings); i += 2 {
		vars[settings[i]] = settings[i+1]
	}
	r := env.NewReader(env.Map(vars))
	cfg := trace.ConfigFromEnv(r, "svc")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// serve makes one server span, continuing the trace of traceparent.
func serve(t *trace.Tracer, traceparent string) context.Context {
	r := httptest.NewRequest(http.MethodGet, "/tasks?access_token=secret", nil)
	if traceparent != "" {
		r.Header.Set("Traceparent", traceparent)
	}
	r, span := t.Serve(r)
	span.End("GET /tasks", r.Method, 200)
	return r.Context()
}

func TestOffCostsNothing(t *testing.T) {
	tracer := trace.New(config(t), slog.New(slog.DiscardHandler))
	if tracer != nil {
		t.Fatal("a tracer without OTEL_* settings")
	}
	producer, consumer := tracer.Producer("topic"), tracer.Consumer("topic", "group", "sub", "http://sink/")
	if producer != nil || consumer != nil {
		t.Fatal("something that makes spans, without a tracer")
	}
	r := httptest.NewRequest(http.MethodGet, "/tasks", nil)
	r.Header.Set("Traceparent", parent)
	allocs := testing.AllocsPerRun(1000, func() {
		same, span := tracer.Serve(r)
		if same != r || trace.Recording(r.Context()) || trace.ID(r.Context()) != "" {
			t.Fatal("a span")
		}
		span.End("GET /tasks", "GET", 200)
		producer.Begin(0, nil).End(nil)
		var d *trace.Delivery
		d.End(204, "accepted", nil)
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
	tracer.Close(time.Now())
}

func TestSettings(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		settings []string
		on       bool
		mistake  string
	}{
		"none":            {nil, false, ""},
		"endpoint":        {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"}, true, ""},
		"own endpoint":    {[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/own"}, true, ""},
		"exporter":        {[]string{"OTEL_TRACES_EXPORTER", "otlp"}, true, ""},
		"exporter none":   {[]string{"OTEL_TRACES_EXPORTER", "none", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"}, false, ""},
		"disabled":        {[]string{"OTEL_SDK_DISABLED", "true", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"}, false, ""},
		"other exporter":  {[]string{"OTEL_TRACES_EXPORTER", "zipkin"}, false, `OTEL_TRACES_EXPORTER: want otlp or none, have "zipkin"`},
		"gRPC":            {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, false, "OTEL_EXPORTER_OTLP_PROTOCOL: want http/protobuf"},
		"own protocol":    {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"}, true, ""},
		"no address":      {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318"}, false, "OTEL_EXPORTER_OTLP_ENDPOINT: want an http or https address"},
		"headers":         {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c", "OTEL_EXPORTER_OTLP_HEADERS", "secret"}, false, "OTEL_EXPORTER_OTLP_HEADERS: want NAME=VALUE"},
		"line feed":       {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c", "OTEL_EXPORTER_OTLP_HEADERS", "a=b%0Ac"}, false, "OTEL_EXPORTER_OTLP_HEADERS: want NAME=VALUE"},
		"ratio":           {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c", "OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG", "2"}, false, "OTEL_TRACES_SAMPLER_ARG: want a share from 0 to 1"},
		"sampler":         {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c", "OTEL_TRACES_SAMPLER", "xray"}, false, "OTEL_TRACES_SAMPLER: want one of"},
		"certificate":     {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE", ca}, false, "OTEL_EXPORTER_OTLP_CERTIFICATE: holds no certificate in PEM"},
		"key without one": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://c", "OTEL_EXPORTER_OTLP_CLIENT_KEY", ca}, false, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: with its key"},
	} {
		t.Run(name, func(t *testing.T) {
			vars := map[string]string{}
			for i := 0; i < len(c.settings); i += 2 {
				vars[c.settings[i]] = c.settings[i+1]
			}
			r := env.NewReader(env.Map(vars))
			cfg := trace.ConfigFromEnv(r, "svc")
			err := r.Err()
			if (err == nil) != (c.mistake == "") || err != nil && !strings.Contains(err.Error(), c.mistake) {
				t.Fatalf("mistake %v, want %q", err, c.mistake)
			}
			if on := cfg != nil; err == nil && on != c.on {
				t.Errorf("on = %v, want %v", on, c.on)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the mistake repeats the value: %v", err)
			}
		})
	}
}

func TestAServerSpan(t *testing.T) {
	c := tracetest.Start(t)
	tracer := trace.New(config(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL+"/", "OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%3D1", "OTEL_RESOURCE_ATTRIBUTES", "service.name=other,env=a%20b", "OTEL_SERVICE_NAME", "mine"), slog.New(slog.DiscardHandler))
	ctx := serve(tracer, parent)
	if got := trace.ID(ctx); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("ID = %q", got)
	}
	if p, _ := trace.Current(ctx); p[:36] != parent[:36] || p == parent {
		t.Errorf("current %s, want another span of the same trace", p)
	}
	tracer.Close(time.Now().Add(time.Minute))
	spans := c.Spans(func(tracetest.Span) bool { return true })
	if len(spans) != 1 || c.Header().Get("Api-Key") != "s=1" || spans[0].Resource["env"] != "a b" || spans[0].Service != "mine" {
		t.Fatalf("spans %v, headers %v", spans, c.Header())
	}
	if s := spans[0]; s.Name != "GET /tasks" || s.Parent != "b7ad6b7169203331" || strings.Contains(fmt.Sprint(s.Attributes), "secret") {
		t.Errorf("span %+v", s)
	}
}

// A sampled event makes the spans that stand for it, whatever the root sampler says;
// one that is not makes none.
func TestSampling(t *testing.T) {
	unsampled := strings.TrimSuffix(parent, "1") + "0"
	other := strings.Replace(parent, "0af7", "1af7", 1)
	for name, c := range map[string]struct {
		sampler string
		events  []string
		want    int
	}{
		"one, sampled":       {"parentbased_always_off", []string{parent}, 2},
		"one, not sampled":   {"parentbased_always_on", []string{unsampled}, 0},
		"one without":        {"parentbased_always_on", []string{""}, 2},
		"one without, off":   {"parentbased_always_off", []string{"junk"}, 0},
		"several":            {"parentbased_always_off", []string{unsampled, other, parent}, 2},
		"several, none":      {"parentbased_always_on", []string{unsampled, unsampled}, 0},
		"several without":    {"parentbased_traceidratio", []string{unsampled, ""}, 2},
		"never":              {"always_off", []string{parent, other}, 0},
		"always":             {"always_on", []string{parent, other}, 2},
		"not UTF-8, and all": {"always_on", []string{parent}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			col := tracetest.Start(t)
			tracer := trace.New(config(t, "OTEL_EXPORTER_OTLP_ENDPOINT", col.URL, "OTEL_TRACES_SAMPLER", c.sampler, "OTEL_EXPORTER_OTLP_COMPRESSION", "none"), slog.New(slog.DiscardHandler))
			var events []trace.Event
			for _, p := range c.events {
				events = append(events, trace.Event{Parent: p, ID: "id\xff", Subject: strings.Repeat("x", 5000)})
			}
			tracer.Consumer("t", "g", "s", "https://user:secret@sink.example/?token=secret").Begin("0", 7, 2, events).End(503, "retry", fmt.Errorf("a\xff"))
			tracer.Close(time.Now().Add(time.Minute))
			spans := col.Spans(func(tracetest.Span) bool { return true })
			if len(spans) != c.want {
				t.Fatalf("%d spans, want %d: %v", len(spans), c.want, spans)
			}
			for _, s := range spans {
				if !s.Error || strings.Contains(fmt.Sprint(s), "secret") || len(s.Attributes["cloudevents.event_subject"]) > 1024 {
					t.Errorf("span %+v", s)
				}
				if s.Kind == "client" && (s.Attributes["url.full"] != "https://sink.example/" || s.Attributes["server.port"] != "443" || s.Attributes["http.request.resend_count"] != "1" || s.Attributes["error.type"] != "503") {
					t.Errorf("attributes %v", s.Attributes)
				}
			}
		})
	}
}

// A collector that asks for patience gets the same spans again; one that refuses loses them.
func TestExportsAgain(t *testing.T) {
	var calls atomic.Int32
	status := []int{503, 429, 200}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status[min(int(calls.Add(1))-1, len(status)-1)])
	}))
	defer server.Close()
	var log apptest.Log
	tracer := trace.New(config(t, "OTEL_EXPORTER_OTLP_ENDPOINT", server.URL, "OTEL_BSP_SCHEDULE_DELAY", "1"), slog.New(slog.NewTextHandler(&log, nil)))
	serve(tracer, parent)
	apptest.Await(t, "three posts", func() bool { return calls.Load() == 3 })
	tracer.Close(time.Now().Add(time.Minute))
	if strings.Contains(log.String(), "WARN") {
		t.Errorf("log = %s", log.String())
	}
	calls.Store(0)
	status[0] = 400
	tracer = trace.New(config(t, "OTEL_EXPORTER_OTLP_ENDPOINT", server.URL), slog.New(slog.NewTextHandler(&log, nil)))
	serve(tracer, parent)
	tracer.Close(time.Now().Add(time.Minute))
	if calls.Load() != 1 || strings.Count(log.String(), "traces not exported") != 1 {
		t.Errorf("%d posts, log %s", calls.Load(), log.String())
	}
}

// A collector that is dead or silent holds up neither spans nor a stop.
func TestADeadCollectorHoldsNobodyUp(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
		<-r.Context().Done()
	}))
	defer silent.Close()
	for name, url := range map[string]string{"silent": silent.URL, "dead": "http://127.0.0.1:1"} {
		for _, grace := range []time.Duration{-time.Second, time.Minute} {
			t.Run(fmt.Sprint(name, grace), func(t *testing.T) {
				tracer := trace.New(config(t, "OTEL_EXPORTER_OTLP_ENDPOINT", url, "OTEL_BSP_MAX_QUEUE_SIZE", "8", "OTEL_BSP_SCHEDULE_DELAY", "1"), slog.New(slog.DiscardHandler))
				for range 100 { // more than fit into the queue
					serve(tracer, parent)
				}
				start := time.Now()
				tracer.Close(start.Add(grace))
				if took := time.Since(start); took > 8*time.Second {
					t.Errorf("Close took %v, want about 2 s at most", took)
				}
				serve(tracer, parent) // after Close: dropped
			})
		}
	}
}

func TestIDOf(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for given, want := range map[string]string{
		parent: id, "": "", "00-" + id: "", "01-" + parent[3:] + "-x": id, "01-" + parent[3:] + "x": "", "ff-" + parent[3:]: "",
		parent + "-": "", strings.ToUpper(parent): "", "00-" + strings.Repeat("0", 32) + parent[35:]: "", strings.Replace(parent, "b7ad6b7169203331", "0000000000000000", 1): "",
	} {
		if got := trace.IDOf(given); got != want {
			t.Errorf("IDOf(%q) = %q, want %q", given, got, want)
		}
	}
}

func FuzzFromHeader(f *testing.F) {
	f.Add(parent, "a=1", "")
	f.Add("cc"+parent[2:]+"-later", "a=1,b=2", "é")
	f.Add("00--", strings.Repeat(",", 600), "\x00")
	tracer := trace.New(config(f, "OTEL_TRACES_EXPORTER", "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY", "3600000"), slog.New(slog.DiscardHandler))
	f.Cleanup(func() { tracer.Close(time.Now()) })
	f.Fuzz(func(t *testing.T, parent, state, more string) {
		h := http.Header{"Traceparent": {parent}, "Tracestate": {state, more}}
		p, s := trace.FromHeader(h)
		if (p == "") != (trace.IDOf(parent) == "") || p == "" && s != "" || p != "" && (len(p) != 55 || p[:3] != "00-") || len(s) > 512 {
			t.Fatalf("FromHeader = %q, %q", p, s)
		}
		again, same := trace.FromHeader(http.Header{"Traceparent": {p}, "Tracestate": {s}})
		if again != p || same != s {
			t.Fatalf("FromHeader of its own answer = %q, %q, want %q, %q", again, same, p, s)
		}
		r, span := tracer.Serve(&http.Request{Method: http.MethodGet, Header: h, URL: httptest.NewRequest(http.MethodGet, "/", nil).URL})
		defer span.End("/", "GET", 200)
		if got, _ := trace.Current(r.Context()); p != "" && got[:36] != p[:36] {
			t.Fatalf("the span is in %s, want the trace of %s", got, p)
		}
	})
}
