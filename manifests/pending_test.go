package manifests_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
)

// pending are variables that the manifests set and that a program of this tree
// may not read yet. A program that reads one is held to it as to any other.
var pending = map[string][]string{
	"bridge":  {"ADMIN_HOSTS", "BRIDGE_STATE_KEY_FILE"},
	"auditor": {"WEBHOOK_SECRET_FILE"},
}

// unregistered are metrics of the alerts that no program of this tree may have yet.
var unregistered = []string{"taskwire_bridge_unsealed_offsets_total", "taskwire_sink_open", "taskwire_auth_failures_total"}

// unread reports whether the program does not read the variable yet.
func unread(program, name string) bool {
	if !slices.Contains(pending[program], name) {
		return false
	}
	asked := false
	_, err := read[program](func(key string) (string, bool) {
		asked = asked || key == name
		return "x", key == name
	})
	return !asked || err != nil && strings.Contains(err.Error(), name+": is not supported")
}

// signs reports whether the bridge can sign yet.
var signs = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp("", "signs")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	config, secret := filepath.Join(dir, "bridge.yaml"), filepath.Join(dir, "secret")
	text := "subscriptions: [{name: a, group: a, sink: 'http://a/', signing: {secret_file: " + secret + "}}]"
	for path, content := range map[string]string{config: text, secret: made["webhook-auditor/secrets"]} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			panic(err)
		}
	}
	_, err = bridge.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": config}))
	return err == nil
})

// unsigned cuts the signing out of a configuration that could not be read with it.
func unsigned(text string) string {
	if signs() {
		return text
	}
	return regexp.MustCompile(` +signing: .*\n`).ReplaceAllString(text, "")
}
