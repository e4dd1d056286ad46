package sink_test

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/webhook"
)

const goodToken = "bridge-0123456789"

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func secret(b byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 24)) + "\n"
}

func signer(t *testing.T, b byte) *webhook.Secrets {
	t.Helper()
	s, err := webhook.Open(file(t, secret(b)), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// guarded is a guard on addr, its log and its metrics.
func guarded(t *testing.T, addr string, cfg sink.Config) (h http.Handler, server *httpd.Server, log *bytes.Buffer) {
	t.Helper()
	log = new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	server, err := httpd.Listen(t.Context(), httpd.Config{Service: "sample", Addr: addr, OpsAddr: "127.0.0.1:0"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	g, err := sink.NewGuard(cfg, server, logger)
	if err != nil {
		t.Fatal(err)
	}
	g.Announce()
	return g.Wrap(sink.Handler(take)), server, log
}

func request(target, body string, edit ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", structured)
	for _, f := range edit {
		f(r)
	}
	return r
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func signed(t *testing.T, s *webhook.Secrets, body string) func(*http.Request) {
	return func(r *http.Request) {
		if err := s.Sign(r.Header, "m", time.Now(), []byte(body)); err != nil {
			t.Error(err)
		}
	}
}

func TestWhoMayPost(t *testing.T) {
	known, foreign := signer(t, 1), signer(t, 2)
	bearer := with("Authorization", "Bearer "+goodToken)
	both, secrets, tokens := "secrets and tokens", "secrets", "tokens"
	configs := map[string]sink.Config{
		both:    {SecretFile: file(t, secret(1)), TokensFile: file(t, "bridge "+goodToken)},
		secrets: {SecretFile: file(t, secret(1))},
		tokens:  {TokensFile: file(t, "bridge "+goodToken)},
	}
	binary := func(r *http.Request) {
		r.Header = http.Header{"Ce-Id": {"7"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}, "Content-Type": {"application/json"}}
	}
	for name, c := range map[string]struct {
		request func() *http.Request
		status  map[string]int
		detail  string
	}{
		"nothing":           {func() *http.Request { return request("/", one) }, map[string]int{both: 401, secrets: 401, tokens: 401}, "this sink takes posts"},
		"signature":         {func() *http.Request { return request("/", one, signed(t, known, one)) }, map[string]int{both: 201, secrets: 201, tokens: 401}, ""},
		"unknown signature": {func() *http.Request { return request("/", one, signed(t, foreign, one)) }, map[string]int{both: 401, secrets: 401, tokens: 401}, ""},
		"altered content":   {func() *http.Request { return request("/", two, signed(t, known, one)) }, map[string]int{both: 401, secrets: 401, tokens: 401}, ""},
		"binary signature": {func() *http.Request { return request("/", `{}`, binary, signed(t, known, `{}`)) },
			map[string]int{both: 401, secrets: 401, tokens: 401}, ""},
		"token":              {func() *http.Request { return request("/", one, bearer) }, map[string]int{both: 201, secrets: 401, tokens: 201}, ""},
		"token, binary":      {func() *http.Request { return request("/", `{}`, binary, bearer) }, map[string]int{both: 201, secrets: 401, tokens: 201}, ""},
		"token in the query": {func() *http.Request { return request("/?access_token="+goodToken, one) }, map[string]int{both: 201, secrets: 401, tokens: 201}, ""},
		"unknown token":      {func() *http.Request { return request("/", one, with("Authorization", "Bearer bridge-9876543210")) }, map[string]int{both: 401, secrets: 401, tokens: 401}, ""},
		"token, no Bearer":   {func() *http.Request { return request("/", one, with("Authorization", goodToken)) }, map[string]int{both: 401, secrets: 401, tokens: 401}, ""},
		"both":               {func() *http.Request { return request("/", one, bearer, signed(t, foreign, one)) }, map[string]int{both: 201, secrets: 401, tokens: 201}, ""},
		"bad token, signed": {func() *http.Request {
			return request("/", one, with("Authorization", "Bearer nonsense"), signed(t, known, one))
		},
			map[string]int{both: 201, secrets: 201, tokens: 401}, ""},
		"no event":  {func() *http.Request { return request("/", "{}", bearer, signed(t, known, "{}")) }, map[string]int{both: 400, secrets: 400, tokens: 400}, "specversion"},
		"too large": {func() *http.Request { return request("/", strings.Repeat("x", sink.MaxBody+1), signed(t, known, one)) }, map[string]int{both: 413, secrets: 413, tokens: 401}, ""},
		"handshake": {func() *http.Request { return httptest.NewRequest("OPTIONS", "/", nil) }, map[string]int{both: 200, secrets: 200, tokens: 200}, ""},
	} {
		for config, want := range c.status {
			t.Run(name+" to "+config, func(t *testing.T) {
				t.Parallel()
				h, _, log := guarded(t, "127.0.0.1:0", configs[config])
				w := httptest.NewRecorder()
				h.ServeHTTP(w, c.request())
				if w.Code != want || !strings.Contains(w.Body.String(), c.detail) {
					t.Errorf("%d %s, want %d with %q", w.Code, w.Body, want, c.detail)
				}
				if asks := w.Header().Get("WWW-Authenticate") != ""; asks != (want == 401) {
					t.Errorf("WWW-Authenticate = %q for %d", w.Header().Values("WWW-Authenticate"), want)
				}
				if strings.Contains(log.String(), goodToken) || strings.Contains(log.String(), "AQEB") {
					t.Errorf("a secret was logged: %s", log)
				}
			})
		}
	}
}

// endless fails the test when it is read.
type endless struct{ t *testing.T }

func (e endless) Read([]byte) (int, error) { e.t.Error("the body was read"); return 0, os.ErrInvalid }

// A caller without credentials costs no memory for its body.
func TestTheBodyOfAnUnsignedPostIsNotRead(t *testing.T) {
	h, _, _ := guarded(t, "127.0.0.1:0", sink.Config{SecretFile: file(t, secret(1))})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/", endless{t}))
	if w.Code != 401 {
		t.Errorf("unsigned = %d, want 401", w.Code)
	}
}

func TestAnOpenSinkSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		addr string
		cfg  sink.Config
		open string
		says string
	}{
		"open to all":         {":0", sink.Config{}, "1", "level=WARN msg=\"open sink: anyone"},
		"open to the machine": {"127.0.0.1:0", sink.Config{}, "0", "level=INFO msg=\"open sink: posts from this machine"},
		"signed":              {":0", sink.Config{SecretFile: file(t, secret(1))}, "0", ""},
		"tokens":              {":0", sink.Config{TokensFile: file(t, "bridge "+goodToken)}, "0", ""},
	} {
		_, server, log := guarded(t, c.addr, c.cfg)
		if !strings.Contains(log.String(), c.says) || (c.says == "") != (log.Len() == 0) {
			t.Errorf("%s: log = %q, want %q", name, log, c.says)
		}
		w := httptest.NewRecorder()
		promhttp.HandlerFor(server.Registry(), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if want := "\ntaskwire_sink_open " + c.open + "\n"; !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: metrics lack %q", name, want)
		}
	}
}
