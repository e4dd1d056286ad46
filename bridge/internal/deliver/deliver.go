// Package deliver makes one attempt to deliver an event to a sink over HTTP and
// classifies the outcome. The caller decides about retries.
package deliver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/webhook"
)

// drainLimit is how much of an answer is read so that its connection can be
// reused; a longer answer closes the connection.
const drainLimit = 64 << 10

const agent = "taskwire-bridge"

// Config is how a sink is reached.
type Config struct {
	URL     string
	Timeout time.Duration    // of one attempt, from dial to the end of the answer
	Signing *webhook.Secrets // each signs every post; nil for unsigned posts
	Bearer  *token.Own       // sent as Authorization: Bearer; nil for none
	Origin  string           // who posts, for a sink that was asked by Handshake; "" for none
	Headers *Headers         // fixed extra ones; nil for none
	TLS     *TLS             // nil for the system's roots and no client certificate
	Allow   []netip.Prefix   // link-local and metadata addresses that a sink may have all the same
}

// Client delivers to one sink. It is safe for concurrent use.
type Client struct {
	url     *url.URL
	timeout time.Duration
	signing *webhook.Secrets
	bearer  *token.Own
	origin  string
	headers *Headers
	tls     *TLS
	dialer  *net.Dialer
	http    *connections
}

// New returns a client; it opens no connection.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("the address of the sink cannot be parsed") // err has the address, which may hold a password
	}
	if u.Path == "" {
		u.Path = "/"
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second, Control: dialControl(cfg.Allow)}
	return &Client{
		url: u, timeout: cfg.Timeout, signing: cfg.Signing, bearer: cfg.Bearer, origin: cfg.Origin, headers: cfg.Headers, tls: cfg.TLS, dialer: dialer,
		http: newConnections(failpoint.HalfWrites("B2", dialer.DialContext), cfg.TLS),
	}, nil
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.close() }

// Signs reports whether posts are signed, and so need a WebhookID.
func (c *Client) Signs() bool { return c.signing != nil }

// Ready is nil when the files that posts need can be used.
func (c *Client) Ready() error {
	var errs []error
	if c.signing != nil {
		errs = append(errs, c.signing.Err())
	}
	if c.bearer != nil {
		errs = append(errs, c.bearer.Err())
	}
	if c.headers != nil {
		errs = append(errs, c.headers.Err())
	}
	if c.tls != nil {
		errs = append(errs, c.tls.Err())
	}
	return errors.Join(errs...)
}

// Post is one attempt.
type Post struct {
	WebhookID   string      // of the event; "" when posts are not signed
	ContentType string      // "" when Header has it, or there is none
	Header      http.Header // further headers, which win: the attributes of an event in the binary form
	Body        []byte
	Batch       *Batch // in place of Body: the events of a batch
	TraceParent string // "" for none
	TraceState  string
	Attempt     int // 1 for the first
	Topic       string
	Partition   string // decimal
	Offset      int64
}

func (p Post) body() []byte {
	if p.Batch != nil {
		return p.Batch.body
	}
	return p.Body
}

// Result is the outcome of an attempt.
type Result struct {
	Outcome    Outcome
	Status     int           // 0 when there was no answer
	RetryAfter time.Duration // 0 when the sink did not ask for one
	Err        error         // nil when accepted; otherwise for the operator

	// Each is what the answer to a batch says of its events, in their order. Without
	// it the outcome is that of the batch as a whole.
	Each []Result
}

// attempt posts once, with send.
func (c *Client) attempt(p Post, send func(http.Header) (*http.Response, error)) Result {
	h := c.header(p)
	if err := c.authenticate(h, p); err != nil {
		// Not sent: without its credentials it would only be refused.
		return Result{Outcome: SinkFault, Err: fmt.Errorf("not posted, its credentials are missing: %w", err)}
	}
	resp, err := send(h)
	if err != nil {
		return c.unanswered("post", err)
	}
	defer resp.Body.Close()
	if p.Batch != nil {
		return answeredBatch(resp, p.Batch.events)
	}
	var excerpt strings.Builder
	if err := drain(resp.Body, &excerpt, resp.StatusCode >= 300); err != nil {
		return incomplete(resp, err)
	}
	return judge(resp, excerpt.String())
}

func incomplete(resp *http.Response, err error) Result {
	return Result{Outcome: Retry, Status: resp.StatusCode, Err: fmt.Errorf("answer %d is incomplete: %w", resp.StatusCode, err)}
}

// judge is the outcome of a complete answer. excerpt is the beginning of its text.
func judge(resp *http.Response, excerpt string) Result {
	res := Result{Outcome: classify(resp.StatusCode), Status: resp.StatusCode}
	if res.Outcome != Accepted {
		res.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
		res.Err = describe(resp, excerpt)
	}
	return res
}

// unanswered is the result of an attempt to which no answer came.
func (c *Client) unanswered(doing string, err error) Result {
	var address *RefusedError
	var cert *tls.CertificateVerificationError
	res := Result{Outcome: classifyError(err)}
	switch {
	case errors.As(err, &address):
		res.Err = fmt.Errorf("not posted: the host of the sink, %s, leads to an address that no sink may have: %w", c.url.Hostname(), address)
	case errors.As(err, &cert):
		res.Err = fmt.Errorf("not posted: the certificate of the sink is not good, see tls.ca_file and tls.server_name: %w", err)
	case res.Outcome == SinkFault:
		res.Err = fmt.Errorf("no answer, the sink or the settings for it are wrong: %w", err)
	default:
		res.Err = fmt.Errorf("%s: %w", doing, err)
	}
	return res
}

// header is what every post has.
func (c *Client) header(p Post) http.Header {
	h := http.Header{
		"Taskwire-Attempt":   {strconv.Itoa(p.Attempt)},
		"Taskwire-Topic":     {p.Topic},
		"Taskwire-Partition": {p.Partition},
		"Taskwire-Offset":    {strconv.FormatInt(p.Offset, 10)},
		"User-Agent":         {agent},
	}
	if c.origin != "" {
		h[headerOrigin] = []string{c.origin}
	}
	if p.ContentType != "" {
		h["Content-Type"] = []string{p.ContentType}
	}
	maps.Copy(h, p.Header)
	if p.TraceParent != "" {
		h["Traceparent"] = []string{p.TraceParent}
		if p.TraceState != "" {
			h["Tracestate"] = []string{p.TraceState}
		}
	}
	return h
}

// authenticate adds what the sink may ask for. The time is the attempt's, so that
// a late retry is no older than a first one.
func (c *Client) authenticate(h http.Header, p Post) error {
	if err := c.identify(h); err != nil {
		return err
	}
	if c.signing != nil {
		return c.signing.Sign(h, p.WebhookID, time.Now(), p.body())
	}
	return nil
}

// identify adds what is the same for each request.
func (c *Client) identify(h http.Header) error {
	if c.headers != nil {
		if err := c.headers.add(h); err != nil {
			return err
		}
	}
	if c.bearer != nil {
		bearer, err := c.bearer.Get()
		if err != nil {
			return err
		}
		h["Authorization"] = []string{"Bearer " + bearer}
	}
	return nil
}

// drain reads the answer to its end, up to drainLimit. What follows in an overlong
// answer does not affect the outcome.
func drain(body io.Reader, excerpt *strings.Builder, keep bool) error {
	if keep {
		if _, err := io.CopyN(excerpt, body, 512); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err := io.CopyN(io.Discard, body, drainLimit)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func describe(resp *http.Response, excerpt string) error {
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("sink answered %d, a redirect, which is never followed; correct the address of the sink", resp.StatusCode)
	case classify(resp.StatusCode) == SinkFault:
		return fmt.Errorf("sink answered %d: its address or credentials are wrong%s", resp.StatusCode, quote(excerpt))
	case resp.StatusCode == http.StatusGone:
		return errors.New("sink answered 410: it wants no more events")
	}
	return fmt.Errorf("sink answered %d%s", resp.StatusCode, quote(excerpt))
}

// quote makes text from a sink fit on one line and safe for a terminal.
func quote(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	return ": " + strings.Trim(quoted(s), `"`)
}

func quoted(s string) string { return strconv.QuoteToASCII(s[:min(len(s), 200)]) }

// retryAfter parses seconds or an HTTP date; anything else, or a date in the past, is 0.
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
		const most = 365 * 24 * 3600 // Backoff caps it anyway; it must not overflow
		return time.Duration(max(0, min(n, most))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
