package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/taskwire/taskwire/internal/retry"
)

// client posts spans to a collector. It is one of our own because OpenTelemetry's
// links gRPC, 5 MB, for an http.Post; the encoding is theirs.
type client struct {
	cfg     *Config
	http    *http.Client
	ctx     context.Context //nolint:containedctx // ends with Stop, and every post with it
	stop    context.CancelFunc
	log     *slog.Logger
	failing bool           // the exporter's goroutine has it
	warning rate.Sometimes // the same
}

func newClient(cfg *Config, log *slog.Logger) *client {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.tls, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute}
	c := &client{cfg: cfg, log: log, warning: rate.Sometimes{Interval: time.Minute}, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // headers may hold a secret
	}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Start does nothing: a collector that is not there keeps nobody from starting.
func (c *client) Start(context.Context) error { return nil }

// Stop cuts off a post in flight.
func (c *client) Stop(context.Context) error {
	c.stop()
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces posts spans, again while the collector asks for it or does not
// answer, until ctx ends. It reports a failure in the log, once a minute, and
// returns nil: OpenTelemetry would print each of them.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	body, err := c.encode(spans)
	if err == nil {
		err = c.send(ctx, body)
	}
	if err != nil {
		c.failing = true
		c.warning.Do(func() {
			c.log.Warn("traces not exported, spans are lost; see OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint", c.cfg.endpoint.Redacted(), "err", err)
		})
		return nil
	}
	if c.failing {
		c.failing, c.warning = false, rate.Sometimes{Interval: time.Minute}
		c.log.Info("traces are exported again", "endpoint", c.cfg.endpoint.Redacted())
	}
	return nil
}

// encode makes an ExportTraceServiceRequest: TracesData has the same bytes, without
// the service and its gRPC.
func (c *client) encode(spans []*tracepb.ResourceSpans) ([]byte, error) {
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil || c.cfg.plain {
		return raw, err
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	_, _ = zip.Write(raw) // a Buffer takes everything
	_ = zip.Close()
	return buf.Bytes(), nil
}

func (c *client) send(ctx context.Context, body []byte) error {
	pause := retry.Backoff{Min: 500 * time.Millisecond, Max: 5 * time.Second}
	for {
		again, after, err := c.post(ctx, body)
		if !again {
			return err
		}
		if retry.Pause(ctx, max(after, pause.Delay())) != nil {
			return err
		}
	}
}

// post reports whether the same spans may be posted again, and after which time at the earliest.
func (c *client) post(ctx context.Context, body []byte) (again bool, after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return false, 0, errors.New("the endpoint is no address")
	}
	for name, values := range c.cfg.header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if !c.cfg.plain {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return true, 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return false, 0, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return true, time.Duration(min(max(seconds, 0), 60)) * time.Second, fmt.Errorf("the collector answered %d", resp.StatusCode)
	}
	return false, 0, fmt.Errorf("the collector answered %d", resp.StatusCode)
}
