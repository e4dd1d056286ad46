package deliver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/sink"
)

func asking(t *testing.T, url string) *deliver.Client {
	t.Helper()
	c, err := deliver.New(deliver.Config{URL: url, Timeout: 5 * time.Second, Origin: "bridge.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestWhatConsentIs: only the origin that was asked for, or any, and a rate that
// can be understood. No status is consent by itself.
func TestWhatConsentIs(t *testing.T) {
	origin := func(value string) http.Header { return http.Header{"Webhook-Allowed-Origin": {value}} }
	rate := func(values ...string) http.Header {
		return http.Header{"Webhook-Allowed-Origin": {"bridge.example"}, "Webhook-Allowed-Rate": values}
	}
	for name, c := range map[string]struct {
		status    int
		header    http.Header
		perMinute int
		outcome   deliver.Outcome // "" for consent
		says      string
	}{
		"the origin":          {200, origin("bridge.example"), 0, "", ""},
		"in other letters":    {204, origin("Bridge.Example"), 0, "", ""},
		"any origin":          {200, origin("*"), 0, "", ""},
		"no limit":            {200, rate("*"), 0, "", ""},
		"a limit":             {200, rate("120"), 120, "", ""},
		"nothing":             {200, nil, 0, deliver.SinkFault, "no WebHook-Allowed-Origin; if it does not know the handshake, set handshake: false"},
		"another origin":      {200, origin("other.example"), 0, deliver.SinkFault, `allows the origin "other.example", not bridge.example`},
		"an empty origin":     {200, origin(""), 0, deliver.SinkFault, "allows the origin"},
		"a list":              {200, origin("bridge.example, other.example"), 0, deliver.SinkFault, "allows the origin"},
		"two origins":         {200, http.Header{"Webhook-Allowed-Origin": {"bridge.example", "*"}}, 0, deliver.SinkFault, "allows the origin"},
		"a rate of nothing":   {200, rate("0"), 0, deliver.SinkFault, `WebHook-Allowed-Rate is "0"`},
		"a negative rate":     {200, rate("-1"), 0, deliver.SinkFault, "WebHook-Allowed-Rate"},
		"no number":           {200, rate("many"), 0, deliver.SinkFault, "WebHook-Allowed-Rate"},
		"two rates":           {200, rate("1", "2"), 0, deliver.SinkFault, "WebHook-Allowed-Rate"},
		"a rate beyond reach": {200, rate("99999999999"), 0, deliver.SinkFault, "WebHook-Allowed-Rate"},
		"a redirect":          {302, origin("*"), 0, deliver.SinkFault, "redirect"},
		"not known":           {405, nil, 0, deliver.SinkFault, "set handshake: false"},
		"not there":           {404, nil, 0, deliver.SinkFault, "404"},
		"not now":             {503, nil, 0, deliver.Retry, "503"},
		"too often":           {429, http.Header{"Retry-After": {"7"}}, 0, deliver.Throttled, "429"},
		"gone":                {410, nil, 0, deliver.Gone, "410"},
		"refused":             {400, origin("*"), 0, deliver.Rejected, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, values := range c.header {
					w.Header()[name] = values
				}
				w.WriteHeader(c.status)
			}))
			defer s.Close()
			got, err := asking(t, s.URL).Handshake(t.Context(), 0, "")
			var refused *deliver.NoConsentError
			if c.outcome == "" {
				if err != nil || got.PerMinute != c.perMinute {
					t.Errorf("Handshake = %+v, %v, want %d a minute", got, err, c.perMinute)
				}
				return
			}
			if !errors.As(err, &refused) || refused.Outcome != c.outcome || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Handshake = %v, want %s that says %q", err, c.outcome, c.says)
			}
			if c.status == 429 && refused != nil && refused.RetryAfter != 7*time.Second {
				t.Errorf("Retry-After = %v", refused.RetryAfter)
			}
		})
	}
}

func TestWhatIsAsked(t *testing.T) {
	var method string
	var asked, posted http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posted = r.Header
			return
		}
		method, asked = r.Method, r.Header
		w.Header().Set("WebHook-Allowed-Origin", "*")
	}))
	defer s.Close()
	c := asking(t, s.URL)
	if _, err := c.Handshake(t.Context(), 90, "https://bridge.example/handshake/x"); err != nil {
		t.Fatal(err)
	}
	asked.Del("Accept-Encoding")
	asked.Del("Content-Length")
	want := http.Header{"User-Agent": {"taskwire-bridge"}, "Webhook-Request-Origin": {"bridge.example"}, "Webhook-Request-Rate": {"90"},
		"Webhook-Request-Callback": {"https://bridge.example/handshake/x"}}
	if diff := cmp.Diff(want, asked); diff != "" || method != http.MethodOptions {
		t.Errorf("%s with headers (-want +got):\n%s", method, diff)
	}
	if _, err := c.Handshake(t.Context(), 0, ""); err != nil || asked.Get("WebHook-Request-Rate") != "" || asked.Get("WebHook-Request-Callback") != "" {
		t.Errorf("without a rate and a callback: %v, %v", err, asked)
	}
	if got := once(t, c, deliver.Post{Body: []byte("{}")}); got.Outcome != deliver.Accepted || posted.Get("WebHook-Request-Origin") != "bridge.example" {
		t.Errorf("Attempt = %+v with origin %q: each post names it", got, posted.Get("WebHook-Request-Origin"))
	}
}

func TestNobodyAnswersTheHandshake(t *testing.T) {
	for name, url := range map[string]string{"cut": raw(t, "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 9\r\n\r\n"), "closed": raw(t, "")} {
		var refused *deliver.NoConsentError
		if _, err := asking(t, url).Handshake(t.Context(), 0, ""); !errors.As(err, &refused) || refused.Outcome != deliver.Retry {
			t.Errorf("%s: %v, want that it is asked again", name, err)
		}
	}
}

// TestOurOwnSinksConsent is what the notifier and the auditor answer.
func TestOurOwnSinksConsent(t *testing.T) {
	s := httptest.NewServer(sink.Handler(func(context.Context, []event.Event) []sink.Result { return nil }))
	defer s.Close()
	if got, err := asking(t, s.URL).Handshake(t.Context(), 60, ""); err != nil || got.PerMinute != 0 {
		t.Errorf("Handshake = %+v, %v", got, err)
	}
}
