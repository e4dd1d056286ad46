package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// headerOrigin names the sender, in the handshake and on each post after it.
const headerOrigin = "Webhook-Request-Origin"

// Consent is what a sink has agreed to.
type Consent struct {
	PerMinute int // requests; 0 for as many as there are
}

// NoConsentError says why deliveries may not begin.
type NoConsentError struct {
	Outcome    Outcome
	RetryAfter time.Duration
	err        error
}

func (e *NoConsentError) Error() string {
	return "the sink has not agreed to deliveries: " + e.err.Error()
}
func (e *NoConsentError) Unwrap() error { return e.err }

// Handshake asks the sink whether it wants deliveries, as the CloudEvents webhook
// specification has it: an address that was mistyped, or chosen to harm somebody,
// does not agree. perMinute is the rate to ask for, 0 for none; callback is where
// the sink may agree later, "" for nowhere. Any error is a *NoConsentError.
func (c *Client) Handshake(ctx context.Context, perMinute int, callback string) (Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	f := fields{{"User-Agent", agent}, {headerOrigin, c.origin}}
	if perMinute > 0 {
		f.set("Webhook-Request-Rate", strconv.Itoa(perMinute))
	}
	if callback != "" {
		f.set("Webhook-Request-Callback", callback)
	}
	if err := c.identify(&f); err != nil {
		return Consent{}, &NoConsentError{Outcome: SinkFault, err: fmt.Errorf("not asked, its credentials are missing: %w", err)}
	}
	req := (&http.Request{Method: http.MethodOptions, URL: c.url, Host: c.url.Host, Header: f.header(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		res := c.unanswered("ask by OPTIONS", err)
		return Consent{}, &NoConsentError{Outcome: res.Outcome, err: res.Err}
	}
	defer resp.Body.Close()
	var buf [512]byte
	excerpt, err := drain(resp.Body, buf[:], resp.StatusCode >= 300)
	if err != nil {
		return Consent{}, &NoConsentError{Outcome: Retry, err: fmt.Errorf("answer %d to OPTIONS is incomplete: %w", resp.StatusCode, err)}
	}
	return c.consent(resp, excerpt)
}

// consent reads the answer. Its status alone means nothing: many servers answer
// every OPTIONS with 200.
func (c *Client) consent(resp *http.Response, excerpt string) (Consent, error) {
	refuse := func(outcome Outcome, format string, args ...any) (Consent, error) {
		return Consent{}, &NoConsentError{outcome, retryAfter(resp.Header.Get("Retry-After"), time.Now()), fmt.Errorf(format, args...)}
	}
	switch outcome := classify(resp.StatusCode); {
	case resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented:
		return refuse(SinkFault, "it answered %d to OPTIONS; if it does not know the handshake, set handshake: false", resp.StatusCode)
	case outcome != Accepted:
		return refuse(outcome, "asked by OPTIONS, the %w", describe(resp, excerpt))
	}
	switch origins := resp.Header["Webhook-Allowed-Origin"]; {
	case len(origins) == 0:
		return refuse(SinkFault, "its answer %d to OPTIONS has no WebHook-Allowed-Origin; if it does not know the handshake, set handshake: false", resp.StatusCode)
	case len(origins) > 1 || origins[0] != "*" && !strings.EqualFold(origins[0], c.origin):
		return refuse(SinkFault, "it allows the origin %s, not %s", quoted(strings.Join(origins, ", ")), c.origin)
	}
	perMinute, err := AllowedRate(resp.Header)
	if err != nil {
		return refuse(SinkFault, "%w", err)
	}
	return Consent{PerMinute: perMinute}, nil
}

// AllowedRate is what an answer or a callback says of the rate, 0 for no limit. A
// limit that cannot be understood is none that may be ignored.
func AllowedRate(h http.Header) (perMinute int, err error) {
	switch values := h["Webhook-Allowed-Rate"]; {
	case len(values) == 0 || len(values) == 1 && values[0] == "*":
		return 0, nil
	case len(values) == 1:
		if n, err := strconv.ParseUint(values[0], 10, 31); err == nil && n > 0 {
			return int(n), nil
		}
	}
	return 0, errors.New("its WebHook-Allowed-Rate is " + quoted(strings.Join(h["Webhook-Allowed-Rate"], ", ")) + "; want * or requests per minute")
}
