package sink

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/webhook"
)

const (
	secretFile = "WEBHOOK_SECRET_FILE"
	tokensFile = "SINK_TOKENS_FILE"
)

// Config is who may post; "" for what is not asked for.
type Config struct {
	SecretFile string // secrets of which one must have signed a post, WEBHOOK_SECRET_FILE
	TokensFile string // tokens of which a post must have one, SINK_TOKENS_FILE
}

// ConfigFromEnv reads and checks the two files that a sink may have.
func ConfigFromEnv(r *env.Reader) Config {
	file := func(key string, check func(path string) error) string {
		path := r.String(key, "")
		if path != "" {
			if err := check(path); err != nil {
				r.Fail(key, "%v", err)
			}
		}
		return path
	}
	return Config{SecretFile: file(secretFile, webhook.Check), TokensFile: file(tokensFile, token.Check)}
}

// Guard passes only posts with a good signature or a good token on; with both
// configured, either is enough.
type Guard struct {
	secrets  *webhook.Secrets // nil: signatures are not looked at
	tokens   *token.List      // nil: tokens are not looked at
	refusals *token.Refusals
	addr     net.Addr
	log      *slog.Logger
}

// NewGuard opens the files of cfg. The readiness and the metrics of server tell how
// its public port is guarded.
func NewGuard(cfg Config, server *httpd.Server, log *slog.Logger) (*Guard, error) {
	g := &Guard{addr: server.Addr(), log: log}
	var err error
	if cfg.SecretFile != "" {
		if g.secrets, err = webhook.Open(cfg.SecretFile, log); err != nil {
			return nil, errors.New(secretFile + ": " + err.Error())
		}
		server.Ready(httpd.Check{Name: secretFile, Func: g.secrets.Err})
	}
	if cfg.TokensFile != "" {
		if g.tokens, err = token.Open(cfg.TokensFile, log); err != nil {
			return nil, errors.New(tokensFile + ": " + err.Error())
		}
		server.Ready(httpd.Check{Name: tokensFile, Func: g.tokens.Err})
	}
	g.refusals = token.NewRefusals(server.Registry(), log)
	g.measure(server)
	return g, nil
}

func (g *Guard) open() bool { return g.secrets == nil && g.tokens == nil }

func (g *Guard) measure(server *httpd.Server) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "taskwire_sink_open", Help: "1 when posts need neither a signature nor a token and other machines can reach the port.",
	})
	server.Registry().MustRegister(gauge)
	if g.open() && !httpd.IsLoopback(g.addr) {
		gauge.Set(1)
	}
}

// Refusals are those of this guard, for a service that refuses other requests, too.
func (g *Guard) Refusals() *token.Refusals { return g.refusals }

// Announce says in the log that everybody may post, if so. A service calls it when
// nothing can keep it from starting any more.
func (g *Guard) Announce() {
	switch {
	case !g.open():
	case httpd.IsLoopback(g.addr):
		g.log.Info("open sink: posts from this machine need no signature or token", "addr", g.addr.String())
	default:
		g.log.Warn("open sink: anyone who can reach the port may post events; set WEBHOOK_SECRET_FILE or SINK_TOKENS_FILE", "addr", g.addr.String())
	}
}

// Wrap guards next, an event Handler. A refusal is 401, which blames the sender's
// settings and not the event.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	if g.open() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		if g.hasToken(r) {
			next.ServeHTTP(w, r)
			return
		}
		if g.secrets == nil || !webhook.Signed(r.Header) {
			g.refuse(w, r, g.unsigned(r), g.want())
			return
		}
		body, err := read(w, r)
		if err != nil {
			httpd.WriteProblem(w, refusal(err))
			return
		}
		if err := g.verify(r.Header, body); err != nil {
			g.refuse(w, r, token.Signature, err.Error())
			return
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// hasToken accepts the header, or the query parameter that the CloudEvents
// webhook specification allows besides.
func (g *Guard) hasToken(r *http.Request) bool {
	given := presented(r)
	if g.tokens == nil || given == "" {
		return false
	}
	_, known := g.tokens.Name(given)
	return known
}

func presented(r *http.Request) string {
	if r.Header.Get("Authorization") != "" {
		return token.FromHeader(r.Header)
	}
	return r.URL.Query().Get("access_token")
}

// verify also refuses what a signature of the body does not cover: attributes in
// headers could be changed on the way unnoticed.
func (g *Guard) verify(h http.Header, body []byte) error {
	for name := range h {
		if strings.HasPrefix(strings.ToLower(name), "ce-") {
			return errors.New("a signature does not cover the attributes of the binary form; send the structured form")
		}
	}
	return g.secrets.Verify(h, body)
}

func (g *Guard) unsigned(r *http.Request) token.Reason {
	if g.tokens != nil && presented(r) != "" {
		return token.Unknown
	}
	return token.Missing
}

// want tells a sender what this sink asks for.
func (g *Guard) want() string {
	switch {
	case g.tokens == nil:
		return "this sink takes posts that are signed as Standard Webhooks has it, in the headers webhook-id, webhook-timestamp and webhook-signature"
	case g.secrets == nil:
		return "this sink takes posts with the header Authorization: Bearer TOKEN and a known token"
	}
	return "this sink takes posts with a Standard Webhooks signature (webhook-id, webhook-timestamp, webhook-signature) or with Authorization: Bearer TOKEN and a known token"
}

func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, reason token.Reason, detail string) {
	g.refusals.Add(w, r, reason)
	if g.tokens != nil {
		w.Header().Add("WWW-Authenticate", `Bearer realm="sink"`)
	}
	if g.secrets != nil {
		w.Header().Add("WWW-Authenticate", "Webhook-Signature")
	}
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnauthorized, Detail: detail})
}
