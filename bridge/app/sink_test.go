package app_test

import (
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/env"

	"github.com/taskwire/taskwire/bridge/app"
)

func TestMistakesInWhatASinkGets(t *testing.T) {
	key := secretFile(t, "a key\n")
	for text, want := range map[string]string{
		"sink: http://h/\n    tls: {server_name: x}":                                                            "(a).tls: has no effect on a sink whose address begins with http://",
		"sink: https://h/\n    tls: {ca_file: " + key + "}":                                                     "(a).tls.ca_file: " + key + ": holds no PEM certificate",
		"sink: https://h/\n    tls: {cert_file: " + key + "}":                                                   "(a).tls.key_file: is missing",
		"sink: https://h/\n    tls: {ca: x}":                                                                    "subscriptions[0].tls.ca: unknown key",
		"sink: http://h/\n    headers: {ce-id: x}":                                                              "(a).headers.ce-id: is set by the bridge",
		"sink: http://h/\n    headers: {X-Key: \"file:/none\"}":                                                 "(a).headers.X-Key: /none: no such file",
		"sink: http://h/\n    headers: {authorization: Basic x}\n    auth: {bearer_file: " + key[:0] + "/none}": "(a).headers.authorization: auth.bearer_file sets this header",
		"sink: http://h/\n    handshake: 3":                                                                     "subscriptions[0].handshake: want true or false, have a number",
		"sink: http://h/\n    headers: [x]":                                                                     "subscriptions[0].headers: want keys and values, have a list",
		"sink: http://h/\n    headers: {\"hunter2\\r\\n\": x}":                                                  "(a).headers.a name is not that of a header",
		"sink: http://h/\n    headers: {X-Key: \"hunter2\\r\\nX-Other: 1\"}":                                    "(a).headers.X-Key: its value has a character",
	} {
		wrong := strings.Join(mistakes(t, write(t, "subscriptions:\n  - name: a\n    group: g\n    "+text+"\n")), "\n")
		if !strings.Contains(wrong, want) || strings.Contains(wrong, "hunter2") {
			t.Errorf("%s: %q, want %q", text, wrong, want)
		}
	}
}

func TestCheckShowsNoValueOfAHeader(t *testing.T) {
	key := secretFile(t, "hunter2\n")
	path := write(t, "subscriptions:\n  - name: a\n    group: g\n    sink: http://h/\n    headers: {X-Key: \"file:"+key+"\", X-Plain: hunter2}\n")
	cfg, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path}))
	if err != nil || cfg.Subscriptions[0].Headers["X-Plain"] != "hunter2" {
		t.Fatalf("FromEnv = %v, %v", cfg.Subscriptions, err)
	}
	printed, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": path}, "check")
	if err != nil || !strings.Contains(printed, "file:"+key) || !strings.Contains(printed, "X-Plain") || strings.Contains(printed, "hunter2") {
		t.Errorf("check = %v\n%s\nwant the path and no value", err, printed)
	}
	if wrong := mistakes(t, write(t, printed)); !strings.Contains(strings.Join(wrong, "\n"), "X-Plain: its value is empty") {
		t.Errorf("what check prints is taken as a configuration without the value: %q", wrong)
	}
}

func TestTheOriginIsAName(t *testing.T) {
	cfg, err := app.FromEnv(env.Map(map[string]string{"WEBHOOK_ORIGIN": "bridge.example.com"}))
	if err != nil || cfg.Origin != "bridge.example.com" {
		t.Errorf("FromEnv = %q, %v", cfg.Origin, err)
	}
	for _, bad := range []string{"http://h", "h:1", "a b", "*", "-a", "h/", "a..b", "a\r\nb"} {
		if _, err := app.FromEnv(env.Map(map[string]string{"WEBHOOK_ORIGIN": bad})); err == nil || !strings.HasPrefix(err.Error(), "WEBHOOK_ORIGIN: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
