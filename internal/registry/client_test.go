package registry_test

import (
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	first        = `{"type":"record","name":"T","fields":[{"name":"a","type":"string"}]}`
	compatible   = `{"type":"record","name":"T","fields":[{"name":"a","type":"string"},{"name":"b","type":["null","string"],"default":null}]}`
	incompatible = `{"type":"record","name":"T","fields":[{"name":"a","type":"string"},{"name":"b","type":"string"}]}`
)

func client(t *testing.T, cfg registry.Config) *registry.Client {
	t.Helper()
	c, err := registry.New(cfg, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRegister(t *testing.T) {
	fake := registrytest.Start(t)
	c := client(t, registry.Config{URL: fake.URL()})
	one, err := c.Register(t.Context(), "s-value", first)
	if err != nil || one.Version != 1 || one.DataSchema != fake.URL()+"/subjects/s-value/versions/1?sha256="+one.Fingerprint {
		t.Fatalf("Register = %+v, %v", one, err)
	}
	if again, err := c.Register(t.Context(), "s-value", first); again != one || err != nil {
		t.Errorf("Register of the same = %+v, %v; want %+v", again, err, one)
	}
	two, err := c.Register(t.Context(), "s-value", compatible)
	if err != nil || two.Version != 2 || two.ID == one.ID {
		t.Errorf("Register = %+v, %v", two, err)
	}
	_, err = c.Register(t.Context(), "s-value", incompatible)
	var refused *registry.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "s-value") || !strings.Contains(err.Error(), "incompatible") {
		t.Errorf("Register of an incompatible schema: %v, want it refused with the registry's reason", err)
	}
}

// A subject refuses from the first version on what cannot read it, whatever the
// registry's own default is; a level that promises more stays.
func TestTheSubjectsCompatibility(t *testing.T) {
	for _, c := range []struct{ before, want sr.CompatibilityLevel }{
		{0, sr.CompatBackward}, {sr.CompatNone, sr.CompatBackward}, {sr.CompatForward, sr.CompatBackward},
		{sr.CompatFullTransitive, sr.CompatFullTransitive}, {sr.CompatBackwardTransitive, sr.CompatBackwardTransitive},
	} {
		fake := registrytest.Start(t)
		if c.before != 0 {
			if err := fake.SetCompat("s-value", c.before); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client(t, registry.Config{URL: fake.URL()}).Register(t.Context(), "s-value", first); err != nil {
			t.Fatal(err)
		}
		api, err := sr.NewClient(sr.URLs(fake.URL()))
		if err != nil {
			t.Fatal(err)
		}
		if got := api.Compatibility(t.Context(), "s-value")[0]; got.Err != nil || got.Level != c.want {
			t.Errorf("level %v before: %v, %v after; want %v", c.before, got.Level, got.Err, c.want)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	}
}

// A registry behind TLS with a CA of its own and basic authentication. The files are
// read again: a new password needs no restart.
func TestTLSAndBasicAuthentication(t *testing.T) {
	fake := registrytest.Start(t)
	target, err := url.Parse(fake.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "taskapi" || password != "correct horse" {
			http.Error(w, `{"error_code": 401, "message": "Unauthorized"}`, http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, password := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "password")
	write := func(path string, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	write(password, []byte("wrong\n"))
	c := client(t, registry.Config{URL: server.URL, CAFile: ca, Username: "taskapi", PasswordFile: password})
	if _, err := c.Register(t.Context(), "s-value", first); err == nil || !strings.Contains(err.Error(), "SCHEMA_REGISTRY_PASSWORD_FILE") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v, want the setting named and no password", err)
	}
	write(password, []byte("correct horse\n"))
	if _, err := c.Register(t.Context(), "s-value", first); err != nil {
		t.Errorf("with the password: %v", err)
	}
	without := client(t, registry.Config{URL: server.URL, Username: "taskapi", PasswordFile: password})
	if _, err := without.Register(t.Context(), "s-value", first); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v, want the certificate refused", err)
	} else if !strings.Contains(err.Error(), "SCHEMA_REGISTRY_CA_FILE") {
		t.Errorf("without the CA: %v, want the setting named", err)
	}
}

// Replicas that start at once register one version.
func TestReplicasRegisterAtOnce(t *testing.T) {
	fake := registrytest.Start(t)
	c := client(t, registry.Config{URL: fake.URL()})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if r, err := c.Register(t.Context(), "s-value", first); err != nil || r.ID != 1 || r.Version != 1 {
				t.Errorf("Register = %+v, %v; want the one version", r, err)
			}
		})
	}
	all.Wait()
}

// What the registry does not permit now, or only others may do, is no refusal of the
// schema: the events wait, and the error says what to do.
func TestWhatIsNotPermitted(t *testing.T) {
	for name, c := range map[string]struct {
		at, answer string
		status     int
		want       string
	}{
		"read only":           {"POST /subjects/s-value/versions", `{"error_code": 42205, "message": "Subject s-value is in read-only mode"}`, http.StatusUnprocessableEntity, "read-only mode"},
		"no level to be set":  {"PUT /config/s-value", `{"error_code": 40301, "message": "User is denied operation"}`, http.StatusForbidden, "set the compatibility of subject s-value to BACKWARD"},
		"no level to be read": {"GET /config/s-value", `{"error_code": 40301, "message": "User is denied operation"}`, http.StatusForbidden, "denied operation"},
	} {
		fake := registrytest.Start(t)
		if err := fake.SetCompat("s-value", sr.CompatNone); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method+" "+r.URL.Path == c.at {
				http.Error(w, c.answer, c.status)
				return
			}
			fake.Handler().ServeHTTP(w, r)
		}))
		_, err := client(t, registry.Config{URL: server.URL}).Register(t.Context(), "s-value", first)
		if err == nil || errors.As(err, new(*registry.RefusedError)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q that is no refusal", name, err, c.want)
		}
		server.Close()
	}
}

// What a registry may do to its clients: be silent, talk without end, lead elsewhere.
func TestHostileRegistries(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("followed a redirect to %s with %q", r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
		"silent half-way": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"compatibilityLevel": "BACK`))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "deadline exceeded"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
					return
				}
			}
		}, "longer than"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "status 302"},
		"a page":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "schema registry: "},
		"nothing":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, "SCHEMA_REGISTRY_URL"},
		"a bare 404": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no such page", http.StatusNotFound)
		}, "SCHEMA_REGISTRY_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.serve)
			defer server.Close()
			cl := client(t, registry.Config{URL: server.URL, Username: "u", PasswordFile: password})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := cl.Register(ctx, "s-value", first)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, new(*registry.RefusedError)) {
				t.Errorf("Register: %v, want an error with %q that is no refusal", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 800 {
				t.Errorf("the error is not one line: %q", err)
			}
		})
	}
}

func TestSchemasOfARegistry(t *testing.T) {
	fake := registrytest.Start(t)
	c := client(t, registry.Config{URL: fake.URL()})
	r, err := c.Register(t.Context(), "s-value", first)
	if err != nil {
		t.Fatal(err)
	}
	s := registry.NewSchemas(c, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	schema, err := ask(s, r.ID, "", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := schema.AppendJSON(nil, []byte("\x04hi")); string(got) != `{"a":"hi"}` || err != nil {
		t.Errorf("AppendJSON = %s, %v", got, err)
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		settings map[string]string
		wrong    []string
	}{
		{nil, nil},
		{map[string]string{"SCHEMA_REGISTRY_URL": "http://localhost:8081"}, nil},
		{map[string]string{"EVENT_ENCODING": "avro", "SCHEMA_REGISTRY_URL": "http://r:8081/apis/ccompat/v7/"}, nil},
		{map[string]string{"EVENT_ENCODING": "avro"}, []string{"SCHEMA_REGISTRY_URL"}},
		{map[string]string{"EVENT_ENCODING": "protobuf"}, []string{"EVENT_ENCODING"}},
		{map[string]string{"SCHEMA_REGISTRY_USERNAME": "u", "SCHEMA_REGISTRY_PASSWORD_FILE": file, "SCHEMA_REGISTRY_CA_FILE": file},
			[]string{"SCHEMA_REGISTRY_USERNAME", "SCHEMA_REGISTRY_PASSWORD_FILE", "SCHEMA_REGISTRY_CA_FILE"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "r:8081"}, []string{"SCHEMA_REGISTRY_URL"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "http://u:p@r:8081"}, []string{"SCHEMA_REGISTRY_URL"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "https://r", "SCHEMA_REGISTRY_USERNAME": "u"}, []string{"SCHEMA_REGISTRY_PASSWORD_FILE"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "https://r", "SCHEMA_REGISTRY_PASSWORD_FILE": file}, []string{"SCHEMA_REGISTRY_USERNAME"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "https://r", "SCHEMA_REGISTRY_CA_FILE": file}, []string{"SCHEMA_REGISTRY_CA_FILE"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "http://r", "SCHEMA_REGISTRY_CA_FILE": file}, []string{"SCHEMA_REGISTRY_CA_FILE"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "http://r", "SCHEMA_REGISTRY_USERNAME": "u", "SCHEMA_REGISTRY_PASSWORD_FILE": file}, []string{"SCHEMA_REGISTRY_URL"}},
		{map[string]string{"SCHEMA_REGISTRY_URL": "http://127.0.0.1:8081", "SCHEMA_REGISTRY_USERNAME": "u", "SCHEMA_REGISTRY_PASSWORD_FILE": file}, nil},
	} {
		r := env.NewReader(env.Map(c.settings))
		cfg, _ := registry.ConfigFromEnv(r)
		err := r.Err()
		if (err == nil) != (c.wrong == nil) {
			t.Errorf("%v: %v, want mistakes in %v", c.settings, err, c.wrong)
			continue
		}
		for _, name := range c.wrong {
			if !strings.Contains(err.Error(), name+": ") {
				t.Errorf("%v: %v, want a mistake in %s", c.settings, err, name)
			}
		}
		if strings.HasSuffix(cfg.URL, "/") {
			t.Errorf("URL = %q, want no slash at its end", cfg.URL)
		}
	}
}
