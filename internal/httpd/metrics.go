package httpd

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/taskwire/taskwire/internal/build"
	"github.com/taskwire/taskwire/internal/latency"
	"github.com/taskwire/taskwire/internal/trace"
)

func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "taskwire_build_info", Help: "1; the labels describe the build.",
	}, []string{"version", "revision", "goversion"})
	b := build.Read()
	info.WithLabelValues(b.Version, b.Revision, b.Go).Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Instrument counts and times requests, and makes their spans. route returns the pattern that matched,
// after the request was served, never the path as sent: labels stay bounded.
func Instrument(reg prometheus.Registerer, tracer *trace.Tracer, service string, route func(*http.Request) string) func(http.Handler) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "taskwire_http_requests_total", Help: "Requests answered, by route and status code.",
	}, []string{"service", "route", "code"})
	reg.MustRegister(requests)
	seconds := latency.New(reg, "taskwire_http_request_seconds", "Time from the request's header to the end of the answer.",
		500*time.Microsecond, 15, "service", "route")
	// Looking a series up by its labels costs more than counting; there are few.
	var mu sync.RWMutex
	known := map[outcome]series{}
	find := func(o outcome) series {
		mu.RLock()
		s, ok := known[o]
		mu.RUnlock()
		if ok {
			return s
		}
		s = series{requests.WithLabelValues(service, o.route, strconv.Itoa(o.status)), seconds.Of(service, o.route)}
		mu.Lock()
		known[o] = s
		mu.Unlock()
		return s
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
			r, span := tracer.Serve(r)
			next.ServeHTTP(rec, r)
			name := route(r)
			span.End(name, r.Method, rec.status)
			s := find(outcome{name, rec.status})
			s.count.Inc()
			s.seconds.Observe(time.Since(start), trace.ID(r.Context()))
		})
	}
}

// outcome is what the metrics tell apart.
type outcome struct {
	route  string
	status int
}

type series struct {
	count   prometheus.Counter
	seconds *latency.Histogram
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the real writer.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
