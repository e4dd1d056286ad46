package httpd

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/taskwire/taskwire/internal/build"
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

// Instrument counts and times requests. route returns the pattern that matched,
// after the request was served, never the path as sent: labels stay bounded.
func Instrument(reg prometheus.Registerer, service string, route func(*http.Request) string) func(http.Handler) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "taskwire_http_requests_total", Help: "Requests answered, by route and status code.",
	}, []string{"service", "route", "code"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "taskwire_http_request_seconds", Help: "Time from the request's header to the end of the answer.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"service", "route"})
	reg.MustRegister(requests, seconds)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
			next.ServeHTTP(rec, r)
			name := route(r)
			requests.WithLabelValues(service, name, strconv.Itoa(rec.status)).Inc()
			seconds.WithLabelValues(service, name).Observe(time.Since(start).Seconds())
		})
	}
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
