// Package registry is the client of a Schema Registry: what Confluent, Apicurio,
// Karapace and Redpanda serve under the same paths. A producer registers its schema
// under a subject; a reader learns by the id in front of each value how to read it.
//
// A schema never changes under its id while the registry keeps its data, so what is
// known once stays known, whatever becomes of the registry; see writer for what a value
// says of its schema. Whoever answers under the registry's address is believed in one
// thing only, that an id has a certain schema, and not in that where the value names its
// fingerprint: how long an answer may take, how large it and what is read with it may
// be, is decided here.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

const (
	// timeout bounds one request: a registry that hangs is one that is down.
	timeout = 5 * time.Second
	// maxAnswer bounds an answer; a schema in JSON quotes is twice as long at most.
	maxAnswer = 2*maxSchema + 64<<10
)

// Client speaks to one registry. It is safe for concurrent use.
type Client struct {
	cfg       Config
	api       *sr.Client
	transport *http.Transport
}

// New returns a client; it opens no connection.
func New(cfg Config, program string) (*Client, error) {
	dialer := &net.Dialer{Timeout: timeout}
	c := &Client{cfg: cfg, transport: &http.Transport{
		DialContext: dialer.DialContext,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			settings, err := cfg.tls(address) // for each connection, so that a renewed CA needs no restart
			if err != nil {
				return nil, err
			}
			return (&tls.Dialer{NetDialer: dialer, Config: settings}).DialContext(ctx, network, address)
		},
		MaxIdleConns: askers, MaxIdleConnsPerHost: askers, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}}
	opts := []sr.ClientOpt{sr.URLs(cfg.URL), sr.UserAgent("taskwire-" + program), sr.LogLevel(sr.LogLevelNone), sr.HTTPClient(&http.Client{
		Transport: bounded{c.transport}, Timeout: timeout,
		// A redirect would carry the password to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})}
	if cfg.Username != "" {
		opts = append(opts, sr.PreReq(func(req *http.Request) error {
			password, err := cfg.password()
			if err != nil {
				return fmt.Errorf("read SCHEMA_REGISTRY_PASSWORD_FILE: %w", err)
			}
			req.SetBasicAuth(cfg.Username, password)
			return nil
		}))
	}
	var err error
	c.api, err = sr.NewClient(opts...)
	return c, err
}

// Close ends the connections that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// bounded cuts off answers: the library reads them to their end.
type bounded struct{ next http.RoundTripper }

var errTooLarge = fmt.Errorf("the registry's answer is longer than %d bytes", maxAnswer)

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// Codes of the registry's API for what it does not have.
const (
	noSubject = 40401
	noVersion = 40402
	noSchema  = 40403
	noLevel   = 40408 // no compatibility of the subject's own
	// What was deleted softly. Confluent's and Apicurio answer so only to who deletes it
	// again; otherwise they have no such subject or version.
	subjectDeleted = 40404
	versionDeleted = 40406
)

// notPermitted is the code for a subject that is read-only, such as while the registry
// is moved.
const notPermitted = 42205

// hasCode reports whether the registry has answered with one of codes. The status
// alone says nothing: a proxy, or another server at a wrong address, has 404s too.
func hasCode(err error, codes ...int) bool {
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		return false
	}
	for _, code := range codes {
		if answer.ErrorCode == code {
			return true
		}
	}
	return false
}

// explain says in one line what the registry has answered, and what mends it.
func explain(err error) error {
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			return fmt.Errorf("schema registry: %w; see SCHEMA_REGISTRY_CA_FILE", err)
		}
		return fmt.Errorf("schema registry: %w", err)
	}
	text := fmt.Sprintf("schema registry: %s %s: status %d: %.300q", answer.Method, answer.URL, answer.StatusCode, answer.Error())
	switch {
	case answer.StatusCode == http.StatusUnauthorized:
		text += "; see SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD_FILE"
	case answer.ErrorCode == 0 && answer.StatusCode < 500:
		text += "; see SCHEMA_REGISTRY_URL"
	}
	return errors.New(text)
}
