package pump_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
)

// shy is a sink that has to be asked.
type shy struct {
	server       *httptest.Server
	agrees       atomic.Bool
	gone         atomic.Bool
	callback     atomic.Value
	asked, posts atomic.Int64

	mu sync.Mutex
	at []time.Time
}

func newShy(t *testing.T, perMinute string) *shy {
	s := &shy{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			if r.Header.Get("WebHook-Request-Origin") != "bridge.example" || !s.agrees.Load() {
				t.Errorf("a post from %q, agreed: %v", r.Header.Get("WebHook-Request-Origin"), s.agrees.Load())
			}
			s.mu.Lock()
			s.at = append(s.at, time.Now())
			s.mu.Unlock()
			s.posts.Add(1)
			return
		case s.gone.Load():
			w.WriteHeader(http.StatusGone)
		case s.agrees.Load():
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", perMinute)
		}
		s.callback.Store(r.Header.Get("WebHook-Request-Callback"))
		s.asked.Add(1)
	}))
	t.Cleanup(s.server.Close)
	return s
}

// TestNothingIsPostedWithoutConsent, and the subscription says what it waits for;
// when the sink agrees, its rate is in force.
func TestNothingIsPostedWithoutConsent(t *testing.T) {
	s := newShy(t, "600") // ten a second
	b := setup(t, s.server.URL)
	b.cfg.Origin = "bridge.example"
	b.produce(events(6, 6)...)
	sub, stop := b.run()
	until(t, "the sink asked some times", func() bool { return s.asked.Load() > 3 })
	until(t, "the reason shown", func() bool { return strings.Contains(sub.View(t.Context()).Reason, "has not agreed to deliveries") })
	if b.blocked("handshake") != 1 || sub.Ready() == nil {
		t.Errorf("blocked by handshake = %v, ready = %v", b.blocked("handshake"), sub.Ready())
	}
	s.agrees.Store(true)
	b.untilCommitted(6)
	if b.blocked("handshake") != 0 || sub.View(t.Context()).Reason != "" || sub.Ready() != nil {
		t.Errorf("after consent: blocked by handshake = %v, reason = %q, ready = %v", b.blocked("handshake"), sub.View(t.Context()).Reason, sub.Ready())
	}
	stop()
	// 5 of 6 posts wait 100 ms each; one may be late, and then the next is not.
	if took := s.at[5].Sub(s.at[0]); took < 350*time.Millisecond {
		t.Errorf("6 posts took %v at 600 a minute", took)
	}
	asked := s.asked.Load()
	_, stop = b.run()
	until(t, "asked again after a restart", func() bool { return s.asked.Load() > asked })
	stop()
}

// TestASinkThatIsGoneIsNotAskedAgain before an operator resumes the subscription.
func TestASinkThatIsGoneIsNotAskedAgain(t *testing.T) {
	s := newShy(t, "*")
	s.gone.Store(true)
	b := setup(t, s.server.URL)
	b.cfg.Origin = "bridge.example"
	b.produce(events(2, 2)...)
	sub, stop := b.run()
	until(t, "paused", func() bool {
		return sub.View(t.Context()).State == "paused" && strings.Contains(sub.View(t.Context()).Reason, "410")
	})
	s.gone.Store(false)
	s.agrees.Store(true)
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if err := sub.Resume(t.Context(), "", "test"); err != nil {
		t.Error(err)
	}
	b.untilCommitted(2)
	stop()
}

// TestAStopWhileTheSinkIsAsked does not wait for its consent.
func TestAStopWhileTheSinkIsAsked(t *testing.T) {
	s := newShy(t, "*")
	b := setup(t, s.server.URL)
	b.cfg.Origin, b.cfg.Backoff.Initial, b.cfg.Backoff.Max = "bridge.example", time.Hour, time.Hour
	_, stop := b.run()
	until(t, "asked", func() bool { return s.asked.Load() > 0 })
	stop()
}

// TestTheSinkAgreesLater by the address that it was told, and nobody else by
// another. Its rate is in force.
func TestTheSinkAgreesLater(t *testing.T) {
	s := newShy(t, "*")
	b := setup(t, s.server.URL)
	b.cfg.Origin, b.cfg.Callback = "bridge.example", "https://bridge.example/"
	b.cfg.Backoff.Initial, b.cfg.Backoff.Max = time.Hour, time.Hour // it is asked once or twice
	b.produce(events(3, 3)...)
	sub, stop := b.run()
	until(t, "asked", func() bool { return s.asked.Load() > 0 && sub.Ready() != nil })
	secret, ok := strings.CutPrefix(s.callback.Load().(string), "https://bridge.example/handshake/")
	if !ok || sub.Consent("", deliver.Consent{}) || sub.Consent(secret[1:]+"A", deliver.Consent{}) {
		t.Fatalf("callback = %q, or another secret was taken", s.callback.Load())
	}
	if sub.Ready() == nil || s.posts.Load() > 0 {
		t.Error("it delivers without consent")
	}
	s.agrees.Store(true) // from now on a post is right
	for range 2 {        // the sink may call twice
		if !sub.Consent(secret, deliver.Consent{PerMinute: 300}) {
			t.Error("the address that the sink was told does nothing")
		}
	}
	b.untilCommitted(3)
	stop()
	if took := s.at[2].Sub(s.at[0]); took < 200*time.Millisecond {
		t.Errorf("3 posts took %v at 300 a minute", took)
	}
}
