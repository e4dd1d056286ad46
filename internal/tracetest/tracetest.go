// Package tracetest is a collector of OpenTelemetry traces for tests: a real HTTP
// server that takes OTLP as http/protobuf.
package tracetest

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span as it arrived. Ids are in hex, values of attributes are text.
type Span struct {
	Service, Name, Kind string // kind: server, client, consumer, producer, internal
	TraceID, ID, Parent string // parent "" for a root
	State               string
	Links               []Link
	Attributes          map[string]string
	Error               bool
	Start, End          uint64            // ns since 1970
	Resource            map[string]string // attributes of the service
}

// Link is from a span to another one.
type Link struct{ TraceID, ID string }

// Collector keeps what it is sent.
type Collector struct {
	URL string

	mu      sync.Mutex
	spans   []Span
	wrong   []string
	headers http.Header // of the last request
}

// Start runs a collector until the end of the test, which fails if anything else than traces came.
func Start(t testing.TB) *Collector {
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(c.serve))
	c.URL = server.URL
	t.Cleanup(func() {
		server.Close()
		for _, w := range c.wrong {
			t.Errorf("the collector got %s", w)
		}
	})
	return c
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = r.Header.Clone()
	spans, err := read(r)
	if err != "" {
		c.wrong = append(c.wrong, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.spans = append(c.spans, spans...)
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(http.StatusOK) // an empty ExportTraceServiceResponse
}

func read(r *http.Request) (spans []Span, wrong string) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, r.Method + " " + r.URL.Path + " of " + r.Header.Get("Content-Type")
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zip, err := gzip.NewReader(body)
		if err != nil {
			return nil, err.Error()
		}
		body = zip
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err.Error()
	}
	var data tracepb.TracesData // the bytes of an ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &data); err != nil {
		return nil, err.Error()
	}
	for _, resource := range data.GetResourceSpans() {
		about := attributes(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				spans = append(spans, span(s, about))
			}
		}
	}
	return spans, ""
}

func span(s *tracepb.Span, resource map[string]string) Span {
	kinds := []string{"", "internal", "server", "client", "producer", "consumer"}
	out := Span{
		Service: resource["service.name"], Name: s.GetName(), Kind: kinds[s.GetKind()], TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
		Parent: hex.EncodeToString(s.GetParentSpanId()), State: s.GetTraceState(), Attributes: attributes(s.GetAttributes()),
		Error: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, Start: s.GetStartTimeUnixNano(), End: s.GetEndTimeUnixNano(), Resource: resource,
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, Link{hex.EncodeToString(l.GetTraceId()), hex.EncodeToString(l.GetSpanId())})
	}
	return out
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		text := a.GetValue().GetStringValue()
		if _, ok := a.GetValue().GetValue().(*commonpb.AnyValue_IntValue); ok {
			text = strconv.FormatInt(a.GetValue().GetIntValue(), 10)
		}
		out[a.GetKey()] = text
	}
	return out
}

// Spans are those that have arrived and that want returns true for.
func (c *Collector) Spans(want func(Span) bool) (found []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if want(s) {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b Span) int { return int(int64(a.Start) - int64(b.Start)) })
	return found
}

// Header is that of the last request.
func (c *Collector) Header() http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers
}
