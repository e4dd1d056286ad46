// Package deliver makes one attempt to deliver an event to a sink over HTTP and
// classifies the outcome. The caller decides about retries.
package deliver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
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
	batches atomic.Bool // what the last answer said
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

// TakesBatches reports whether the sink said in its last answer, by Accept-Post,
// that it takes batches of events.
func (c *Client) TakesBatches() bool { return c.batches.Load() }

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
	Header      http.Header // further headers: the attributes of an event in the binary form
	Body        []byte
	Batch       *Batch // in place of Body: the events of a batch
	TraceParent string // "" for none
	TraceState  string
	Attempt     int // 1 for the first
	Topic       string
	Partition   string // decimal
	Offset      int64
	Offsets     string // in place of Offset: those of the events of a batch, with commas
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
func (c *Client) attempt(p Post, s *scratch, send func(fields) (*http.Response, error)) Result {
	s.fields = c.fields(s.fields[:0], p)
	if err := c.authenticate(&s.fields, p); err != nil {
		// Not sent: without its credentials it would only be refused.
		return Result{Outcome: SinkFault, Err: fmt.Errorf("not posted, its credentials are missing: %w", err)}
	}
	resp, err := send(s.fields)
	if err != nil {
		return c.unanswered("post", err)
	}
	defer resp.Body.Close()
	if takes := takesBatches(resp.Header); takes != c.batches.Load() {
		c.batches.Store(takes)
	}
	if p.Batch != nil {
		return answeredBatch(resp, p.Batch.events)
	}
	excerpt, err := drain(resp.Body, s.answer[:], resp.StatusCode >= 300)
	if err != nil {
		return incomplete(resp, err)
	}
	return judge(resp, excerpt)
}

// scratch is memory that a worker uses for attempt after attempt.
type scratch struct {
	fields fields
	answer [512]byte
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

// fields are the headers of a post, each with a name of its own.
type fields []field

type field struct{ name, value string }

// set replaces a field of the same name.
func (f *fields) set(name, value string) {
	for i := range *f {
		if (*f)[i].name == name {
			(*f)[i].value = value
			return
		}
	}
	*f = append(*f, field{name, value})
}

// header is f as net/http has it.
func (f fields) header() http.Header {
	h := make(http.Header, len(f))
	for _, one := range f {
		h[one.name] = []string{one.value}
	}
	return h
}

// fields appends to f what every post has.
func (c *Client) fields(f fields, p Post) fields {
	offsets := p.Offsets
	if offsets == "" {
		offsets = strconv.FormatInt(p.Offset, 10)
	}
	f = append(f, field{"User-Agent", agent}, field{"Taskwire-Attempt", strconv.Itoa(p.Attempt)}, field{"Taskwire-Topic", p.Topic},
		field{"Taskwire-Partition", p.Partition}, field{"Taskwire-Offset", offsets})
	if c.origin != "" {
		f = append(f, field{headerOrigin, c.origin})
	}
	if p.ContentType != "" {
		f = append(f, field{"Content-Type", p.ContentType})
	}
	for name, values := range p.Header {
		f = append(f, field{name, values[0]})
	}
	if p.TraceParent != "" {
		f = append(f, field{"Traceparent", p.TraceParent})
		if p.TraceState != "" {
			f = append(f, field{"Tracestate", p.TraceState})
		}
	}
	return f
}

// authenticate adds what the sink may ask for. The time is the attempt's, so that
// a late retry is no older than a first one.
func (c *Client) authenticate(f *fields, p Post) error {
	if err := c.identify(f); err != nil {
		return err
	}
	if c.signing != nil {
		h := http.Header{}
		if err := c.signing.Sign(h, p.WebhookID, time.Now(), p.body()); err != nil {
			return err
		}
		for name, values := range h {
			f.set(name, values[0])
		}
	}
	return nil
}

// identify adds what is the same for each request.
func (c *Client) identify(f *fields) error {
	if c.headers != nil {
		if err := c.headers.add(f); err != nil {
			return err
		}
	}
	if c.bearer != nil {
		bearer, err := c.bearer.Get()
		if err != nil {
			return err
		}
		f.set("Authorization", "Bearer "+bearer)
	}
	return nil
}

// drain reads an answer to its end, up to drainLimit, and returns its beginning if
// that is to be kept. What follows in an overlong answer does not affect the outcome.
// buf is as long as the longest excerpt.
func drain(body io.Reader, buf []byte, keep bool) (excerpt string, err error) {
	for n := 0; err == nil && n < drainLimit; {
		var more int
		more, err = body.Read(buf)
		n += more
		if keep {
			excerpt += string(buf[:min(more, len(buf)-len(excerpt))])
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return excerpt, err
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

// WithoutAnswer is the text of an error without the words of the sink, which may
// repeat the event.
func WithoutAnswer(text string) string {
	if at := strings.Index(text, "sink answered "); at >= 0 {
		if words := strings.Index(text[at:], ": "); words >= 0 {
			return text[:at+words]
		}
	}
	return text
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
