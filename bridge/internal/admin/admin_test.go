package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "0123456789abcdef"

func of(subs ...*pump.Subscription) func() []*pump.Subscription {
	return func() []*pump.Subscription { return subs }
}

// subscription delivers nothing: it is never run, and no broker answers it.
func subscription(t *testing.T) *pump.Subscription {
	t.Helper()
	cfg := kafka.Config{Brokers: []string{"no-broker.invalid:9092"}, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no broker") }}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	s, err := pump.New(pump.Config{Name: "audit", Group: "g", Topic: "t", Sink: "http://user:hunter2@sink/path?token=hunter2", Order: pump.ByKey, Concurrency: 1},
		kafka.NewClient(cfg, transport), nil, pump.NewBudget(16<<20), pump.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tokens(t *testing.T, text string) *token.List {
	t.Helper()
	list, err := token.OpenFor("operator", tokenFile(t, text), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const (
	read  = "GET /subscriptions"
	pause = "POST /subscriptions/audit/pause"
)

// ask sends what, a method and a path, with headers such as "Origin: x". It
// comes from loopback, and Host is localhost, unless they are among the headers.
func ask(t *testing.T, h http.Handler, what string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	method, path, _ := strings.Cut(what, " ")
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	r.Host, r.RemoteAddr = "localhost:8001", "127.0.0.1:40000"
	for _, header := range headers {
		switch name, value, _ := strings.Cut(header, ": "); name {
		case "Host":
			r.Host = value
		case "Remote":
			r.RemoteAddr = value
		default:
			r.Header.Add(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code >= 300 && w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %q: the answer %d is no problem", what, headers, w.Code)
	}
	return w
}

func TestAPageOfAnotherSiteCannotPause(t *testing.T) {
	audit := subscription(t)
	h := admin.Handler(of(audit), admin.Config{Loopback: true})
	for _, headers := range [][]string{
		{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"},
		{"Sec-Fetch-Site: same-site"}, // another port of localhost
		{"Origin: https://evil.example"},
		{"Origin: null"},
	} {
		if got := ask(t, h, pause, headers...); got.Code != http.StatusForbidden {
			t.Errorf("pause with %q = %d, want 403", headers, got.Code)
		}
	}
	if state := audit.View(t.Context()).State; state == "paused" {
		t.Fatal("a page of another site has paused the audit")
	}
	for _, headers := range [][]string{nil, {"Sec-Fetch-Site: same-origin", "Origin: http://localhost:8001"}} {
		if got := ask(t, h, pause, headers...); got.Code != http.StatusOK {
			t.Errorf("pause with %q = %d, want 200", headers, got.Code)
		}
	}
	if state := audit.View(t.Context()).State; state != "paused" {
		t.Errorf("state = %s, want paused", state)
	}
}

// With DNS rebinding a page is of the same origin as the bridge; only Host tells.
func TestTheBridgeIsCalledByAKnownName(t *testing.T) {
	for _, loopback := range []bool{true, false} {
		h := admin.Handler(of(), admin.Config{Loopback: loopback, Hosts: httpd.Hosts{"bridge.taskwire"}})
		for host, want := range map[string]int{
			"localhost:8001": 200, "127.0.0.1": 200, "[::1]:8001": 200, "10.1.2.3:8001": 200, "bridge.taskwire:8001": 200, "Bridge.Taskwire": 200,
			"evil.example": 403, "evil.example:8001": 403, "bridge.taskwire.evil.example": 403, "": 403,
		} {
			if got := ask(t, h, read, "Host: "+host); got.Code != want {
				t.Errorf("loopback %v: read as %q = %d, want %d", loopback, host, got.Code, want)
			}
		}
	}
}

func TestWhoMayWhat(t *testing.T) {
	good, old := "Authorization: Bearer "+secret, "Authorization: Bearer old-"+secret
	for name, c := range map[string]struct {
		cfg         admin.Config
		headers     []string
		read, write int
	}{
		"no token, loopback":                   {admin.Config{Loopback: true}, nil, 200, 200},
		"no token, port-forward or sidecar":    {admin.Config{}, nil, 200, 403},
		"no token, from elsewhere":             {admin.Config{}, []string{"Remote: 10.0.0.9:4000"}, 200, 403},
		"no token, loopback by another remote": {admin.Config{Loopback: true}, []string{"Remote: 10.0.0.9:4000"}, 200, 403},
		"token missing":                        {admin.Config{Loopback: true, Token: tokens(t, secret)}, nil, 401, 401},
		"token":                                {admin.Config{Token: tokens(t, secret+"\n")}, []string{good, "Remote: 10.0.0.9:4000"}, 200, 200},
		"token of a rotation":                  {admin.Config{Token: tokens(t, "# new\n"+secret+"\n\nold-"+secret)}, []string{old}, 200, 200},
		"wrong token":                          {admin.Config{Loopback: true, Token: tokens(t, secret)}, []string{good + "0"}, 401, 401},
		"without Bearer":                       {admin.Config{Loopback: true, Token: tokens(t, secret)}, []string{"Authorization: " + secret}, 401, 401},
		"Basic":                                {admin.Config{Loopback: true, Token: tokens(t, secret)}, []string{"Authorization: Basic " + secret}, 401, 401},
		"two headers":                          {admin.Config{Loopback: true, Token: tokens(t, secret)}, []string{good, good}, 401, 401},
		"bearer in lower case":                 {admin.Config{Token: tokens(t, secret)}, []string{"Authorization: bearer " + secret}, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // failed attempts are slowed down
				c.cfg.Refusals = token.NewRefusals(nil, slog.New(slog.DiscardHandler))
				h := admin.Handler(of(subscription(t)), c.cfg)
				for what, want := range map[string]int{read: c.read, "GET /subscriptions/audit": c.read, pause: c.write, "POST /subscriptions/audit/resume": c.write} {
					got := ask(t, h, what, c.headers...)
					if got.Code != want {
						t.Errorf("%s = %d, want %d", what, got.Code, want)
					}
					if challenged := got.Header().Get("WWW-Authenticate") != ""; challenged != (want == 401) {
						t.Errorf("%s: WWW-Authenticate %v with %d", what, challenged, want)
					}
				}
			})
		})
	}
}

// A guess is counted, and its answer takes so long that guessing is slow.
func TestWrongTokensAreCountedAndSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		h := admin.Handler(of(), admin.Config{Token: tokens(t, secret), Refusals: token.NewRefusals(reg, slog.New(slog.DiscardHandler))})
		began := time.Now()
		ask(t, h, read)
		ask(t, h, pause, "Authorization: Bearer "+secret+"0")
		ask(t, h, pause, "Authorization: Bearer "+secret+"1")
		ask(t, h, read, "Authorization: Bearer "+secret)
		if took := time.Since(began); took < 500*time.Millisecond {
			t.Errorf("three guesses took %v", took)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, m := range families[0].GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
		if diff := cmp.Diff(map[string]float64{"missing": 1, "signature": 0, "token": 2}, got); diff != "" {
			t.Errorf("%s by reason (-want +got):\n%s", families[0].GetName(), diff)
		}
	})
}

func TestSinksAreShownWithoutSecrets(t *testing.T) {
	got := ask(t, admin.Handler(of(subscription(t)), admin.Config{}), "GET /subscriptions/audit")
	var view struct{ Sink string }
	if err := json.Unmarshal(got.Body.Bytes(), &view); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("http://sink/path", view.Sink); diff != "" || strings.Contains(got.Body.String(), "hunter2") {
		t.Errorf("sink (-want +got):\n%s\n%s", diff, got.Body)
	}
}

func TestAnEmptiedTokenFileRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := tokenFile(t, secret)
		list, err := token.OpenFor("operator", path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		h := admin.Handler(of(), admin.Config{Token: list, Refusals: token.NewRefusals(nil, slog.New(slog.DiscardHandler)), Loopback: true})
		for _, step := range []struct {
			change func() error
			want   int
		}{
			{func() error { return nil }, 200},
			{func() error { return os.WriteFile(path, nil, 0o600) }, 401},
			{func() error { return os.WriteFile(path, []byte(secret), 0o600) }, 200},
			{func() error { return os.Remove(path) }, 401},
		} {
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // of the bubble's clock: the file is looked at once a second
			if got := ask(t, h, read, "Authorization: Bearer "+secret); got.Code != step.want || (list.Err() == nil) != (step.want == 200) {
				t.Errorf("read = %d with the file's state %v, want %d", got.Code, list.Err(), step.want)
			}
		}
	})
}

func TestMistakesInATokenFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "holds no token, so nobody has access",
		"\n# comment\n":          "holds no token, so nobody has access",
		"hunter2":                "line 1: the token has less than 16 characters; openssl rand -hex 32 makes a good one",
		secret + "\nname hunter": "line 2: want one token of printable ASCII, without spaces",
	} {
		path := tokenFile(t, text)
		got := ""
		if err := token.CheckFor("operator", path); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(path+": "+want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestAPauseSaysWhoAndWhy(t *testing.T) {
	s := subscription(t)
	h := admin.Handler(of(s), admin.Config{Loopback: true})
	for _, c := range []struct {
		body, media string
		want        int
		reason, by  string
	}{
		{``, "", 200, "paused by an operator", "operator from 127.0.0.1"},
		{`{"reason":"the sink moves"}`, "application/json", 200, "the sink moves", "operator from 127.0.0.1"},
		{`{"reason":"the sink moves","by":"alice"}`, "application/json", 200, "the sink moves", "alice from 127.0.0.1"},
		{`{"reason":"a\nb"}`, "application/json", 422, "", ""},
		{`{"by":"\u001b[2J"}`, "application/json", 422, "", ""},
		{`{"reason":"` + strings.Repeat("x", 501) + `"}`, "application/json", 422, "", ""},
		{`{"why":"x"}`, "application/json", 400, "", ""},
		{`reason=x`, "application/x-www-form-urlencoded", 415, "", ""},
	} {
		if err := s.Resume(t.Context(), "r", "b"); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/subscriptions/audit/pause", strings.NewReader(c.body))
		r.Host, r.RemoteAddr = "localhost:8001", "127.0.0.1:40000"
		if c.media != "" {
			r.Header.Set("Content-Type", c.media)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		paused := s.View(t.Context()).Paused
		if w.Code != c.want || (paused != nil) != (c.want == 200) {
			t.Errorf("%s = %d, paused: %v: %s", c.body, w.Code, paused != nil, w.Body)
			continue
		}
		if paused != nil && (paused.Reason != c.reason || paused.By != c.by) {
			t.Errorf("%s: paused by %q because %q", c.body, paused.By, paused.Reason)
		}
	}
}
