package trace

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/taskwire/taskwire/internal/env"
)

// Config is where traces go, and which; nil makes none.
type Config struct {
	Timeout   time.Duration // of an export, its repeats included
	Delay     time.Duration // how long a span waits for others at most
	QueueSize int           // spans that wait; more are dropped
	BatchSize int           // spans of an export at most

	endpoint   *url.URL
	header     http.Header
	plain      bool // without gzip
	tls        *tls.Config
	sampler    sdk.Sampler
	attributes []attribute.KeyValue // of the resource; the last of a name counts
}

// ConfigFromEnv reads the standard variables. Traces are on when an endpoint is
// set, or OTEL_TRACES_EXPORTER=otlp asks for the collector on this machine.
func ConfigFromEnv(r *env.Reader, service string) *Config {
	exporter := r.String("OTEL_TRACES_EXPORTER", "")
	if !slices.Contains([]string{"", "otlp", "none"}, exporter) {
		r.Fail("OTEL_TRACES_EXPORTER", "want otlp or none, have %q", exporter)
	}
	base, own := r.String("OTEL_EXPORTER_OTLP_ENDPOINT", ""), r.String("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	if r.Bool("OTEL_SDK_DISABLED", false) || exporter == "none" || exporter == "" && base == "" && own == "" {
		return nil
	}
	// traces names the variable that wins: the one for traces alone.
	traces := func(suffix string) string {
		if key := "OTEL_EXPORTER_OTLP_TRACES_" + suffix; r.String(key, "") != "" {
			return key
		}
		return "OTEL_EXPORTER_OTLP_" + suffix
	}
	if key := traces("PROTOCOL"); r.String(key, "http/protobuf") != "http/protobuf" {
		r.Fail(key, "want http/protobuf (port 4318 of a collector); gRPC and JSON are not spoken")
	}
	c := &Config{
		Timeout:   milliseconds(r, traces("TIMEOUT"), 10_000),
		Delay:     milliseconds(r, "OTEL_BSP_SCHEDULE_DELAY", 5000),
		QueueSize: r.Int("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1, 1_000_000),
		plain:     r.Enum(traces("COMPRESSION"), "gzip", "gzip", "none") == "none",
	}
	c.BatchSize = min(c.QueueSize, r.Int("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1, 1_000_000))
	c.endpoint = endpoint(r, base, own)
	c.header = http.Header{}
	for _, one := range pairs(r, traces("HEADERS"), "api-key=SECRET") {
		c.header.Set(one.name, one.value)
	}
	c.attributes = []attribute.KeyValue{semconv.ServiceName(service)}
	for _, one := range pairs(r, "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging") {
		c.attributes = append(c.attributes, attribute.String(one.name, one.value))
	}
	if name := r.String("OTEL_SERVICE_NAME", ""); name != "" {
		c.attributes = append(c.attributes, semconv.ServiceName(name))
	}
	c.tls = files(r, traces("CERTIFICATE"), traces("CLIENT_CERTIFICATE"), traces("CLIENT_KEY"))
	c.sampler = sampler(r)
	return c
}

func milliseconds(r *env.Reader, key string, def int) time.Duration {
	return time.Duration(r.Int(key, def, 1, 3_600_000)) * time.Millisecond
}

// endpoint is the address of the traces. The one for traces alone is taken as it is, the
// common one is the address below which each signal has its path.
func endpoint(r *env.Reader, base, own string) *url.URL {
	key, address := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own
	if own == "" {
		if key, address = "OTEL_EXPORTER_OTLP_ENDPOINT", base; base == "" {
			address = "http://localhost:4318"
		}
		address = strings.TrimSuffix(address, "/") + "/v1/traces"
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		r.Fail(key, "want an http or https address such as http://localhost:4318")
		return &url.URL{}
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u
}

type pair struct{ name, value string }

// pairs reads name=value, name=value, with percent-encoded values. A mistake does not
// repeat the value: it may be a secret.
func pairs(r *env.Reader, key, example string) (found []pair) {
	for _, item := range r.List(key, "") {
		name, value, ok := strings.Cut(item, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil || strings.ContainsFunc(name+value, isControl) || !utf8.ValidString(name+value) {
			r.Fail(key, "want NAME=VALUE,NAME=VALUE with percent-encoded values, such as %s", example)
			return nil
		}
		found = append(found, pair{name, value})
	}
	return found
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// files reads the certificates for a collector with TLS.
func files(r *env.Reader, ca, certificate, key string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if path := r.File(ca); path != "" {
		pem, err := os.ReadFile(path)
		if cfg.RootCAs = x509.NewCertPool(); err == nil && !cfg.RootCAs.AppendCertsFromPEM(pem) {
			err = errors.New("holds no certificate in PEM")
		}
		if err != nil {
			r.Fail(ca, "%v", err)
		}
	}
	chain, own := r.File(certificate), r.File(key)
	if chain == "" && own == "" {
		return cfg
	}
	pair, err := tls.LoadX509KeyPair(chain, own)
	if err != nil {
		r.Fail(certificate, "with its key of %s: %v", key, err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

func sampler(r *env.Reader) sdk.Sampler {
	const key, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	name := r.Enum(key, "parentbased_always_on", "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")
	ratio := 1.0
	if strings.HasSuffix(name, "traceidratio") {
		var err error
		if ratio, err = strconv.ParseFloat(r.String(argument, "1"), 64); err != nil || ratio < 0 || ratio > 1 {
			r.Fail(argument, "want a share from 0 to 1, such as 0.01")
		}
	}
	root := sdk.TraceIDRatioBased(ratio)
	if strings.HasSuffix(name, "always_off") {
		root = sdk.NeverSample()
	}
	if strings.HasPrefix(name, "parentbased") {
		return sdk.ParentBased(linked{root})
	}
	return root
}
