package app_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
)

const goodSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSigningAndBearerOfASubscription(t *testing.T) {
	secret, bearer := secretFile(t, goodSecret), secretFile(t, "abc123\n")
	path := write(t, "subscriptions:\n  - name: a\n    group: g\n    sink: http://h/\n    signing: {secret_file: "+secret+"}\n    auth: {bearer_file: "+bearer+"}\n")
	cfg, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path}))
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.Subscriptions[0]
	if diff := cmp.Diff([]string{secret, bearer}, []string{got.Signing.SecretFile, got.Auth.BearerFile}); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	printed, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": path}, "check")
	if err != nil || !strings.Contains(printed, secret) || strings.Contains(printed, "whsec") {
		t.Errorf("check = %v, %s, want the path and not the secret", err, printed)
	}
}

func TestBadCredentialFilesAreNamed(t *testing.T) {
	loose := secretFile(t, goodSecret)
	if err := os.Chmod(loose, 0o666); err != nil {
		t.Fatal(err)
	}
	path := write(t, "subscriptions:\n  - name: a\n    group: g\n    sink: http://h/\n    signing: {secret_file: "+loose+"}\n    auth: {bearer_file: /nonexistent}\n")
	wrong := mistakes(t, path)
	for _, want := range []string{"(a).signing.secret_file: " + loose + ": can be written by its group or others", "(a).auth.bearer_file: /nonexistent: no such file"} {
		if !slices.ContainsFunc(wrong, func(m string) bool { return strings.Contains(m, want) }) {
			t.Errorf("mistakes = %q, want one with %q", wrong, want)
		}
	}
}

// Without a file of subscriptions the sinks' own variable signs both.
func TestTheDefaultSubscriptionsAreSignedFromTheEnvironment(t *testing.T) {
	secret := secretFile(t, goodSecret)
	cfg, err := app.FromEnv(env.Map(map[string]string{"WEBHOOK_SECRET_FILE": secret}))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cfg.Subscriptions {
		if s.Signing.SecretFile != secret {
			t.Errorf("%s is signed with %q, want %s", s.Name, s.Signing.SecretFile, secret)
		}
	}
	if _, err := app.FromEnv(env.Map(map[string]string{"WEBHOOK_SECRET_FILE": "/nonexistent"})); err == nil || strings.Count(err.Error(), "WEBHOOK_SECRET_FILE: ") != 1 {
		t.Errorf("FromEnv = %v, want one mistake", err)
	}
}
