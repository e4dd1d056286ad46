package app_test

import (
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// TestTheAddressForConsent can be called without the token of the admin API, opens
// nothing else, and cannot be found by trying, looking or a link checker.
func TestTheAddressForConsent(t *testing.T) {
	var callback atomic.Value
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		callback.Store(r.Header.Get("WebHook-Request-Callback"))
		w.Header().Set("WebHook-Allowed-Origin", "*")
	}))
	defer sink.Close()
	cluster := kafkatest.Start(t)
	topic, letters := cluster.Topic(t, 1), cluster.Topic(t, 1)
	a := apptest.Start(t, "bridge", app.FromEnv, app.New, map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": cluster.Brokers[0], "KAFKA_CREATE_TOPICS": "true",
		"WEBHOOK_CALLBACK_URL": "https://bridge.example/base/", "ADMIN_TOKEN_FILE": secretFile(t, "0123456789abcdef"),
		"BRIDGE_CONFIG": write(t, "topic: "+topic+"\nsubscriptions: [{name: s, group: "+topic+"-group, sink: '"+sink.URL+"', deadletter: "+letters+", handshake: true}]\n"),
	})
	address, _ := callback.Load().(string)
	secret := path.Base(address)
	if !strings.HasPrefix(address, "https://bridge.example/base/handshake/") || len(secret) != 43 {
		t.Fatalf("the sink was told %q, want an address with 256 random bits", address)
	}
	call := func(method, path, rate string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rate != "" {
			req.Header.Set("WebHook-Allowed-Rate", rate)
		}
		resp, err := a.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		method, path, rate string
		want               int
	}{
		{"GET", "/handshake/" + secret, "", 204},
		{"POST", "/handshake/" + secret, "60", 204},
		{"GET", "/handshake/" + secret, "0", 400},
		{"HEAD", "/handshake/" + secret, "", 405},
		{"GET", "/handshake/", "", 404},
		{"GET", "/handshake/" + secret[:42], "", 404},
		{"GET", "/handshake/" + secret + "/", "", 404},
		{"GET", "/handshake/" + strings.ToUpper(secret), "", 404},
		{"GET", "/handshake/../subscriptions", "", 401},
		{"GET", "/subscriptions", "", 401},
	} {
		if got := call(c.method, c.path, c.rate); got != c.want {
			t.Errorf("%s %s with rate %q = %d, want %d", c.method, strings.ReplaceAll(c.path, secret, "SECRET"), c.rate, got, c.want)
		}
	}
	if _, metrics := a.Get(t, a.OpsURL+"/metrics"); strings.Contains(metrics, secret) || strings.Contains(a.Log.String(), secret) {
		t.Error("the secret is in the metrics or in the log")
	}
}

func TestWhereSinksCall(t *testing.T) {
	for _, bad := range []string{"bridge", "ftp://h/", "https://u:hunter2@h/", "https://h/?a=hunter2", "https://h/#hunter2"} {
		_, err := app.FromEnv(env.Map(map[string]string{"WEBHOOK_CALLBACK_URL": bad}))
		if err == nil || !strings.HasPrefix(err.Error(), "WEBHOOK_CALLBACK_URL: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
