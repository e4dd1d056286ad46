package registry_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/registrytest"
)

const unrelated = `{"type":"record","name":"U","fields":[{"name":"n","type":"string"}]}` // reads what first has written

// schemasOf are what a reader that starts knows of a registry, which it asks.
func schemasOf(t *testing.T, url string) *registry.Schemas {
	t.Helper()
	s := registry.NewSchemas(client(t, registry.Config{URL: url}), slog.New(slog.DiscardHandler))
	s.Settle, s.Restore = 500*time.Millisecond, 500*time.Millisecond
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// A registry that lost its data gives the id to another schema. Nothing is read with
// that, and when the producer has registered its schema again it is found.
func TestARegistryWithoutItsData(t *testing.T) {
	fake := registrytest.Start(t)
	c := client(t, registry.Config{URL: fake.URL()})
	r, err := c.Register(t.Context(), "a/b-value", first)
	if err != nil {
		t.Fatal(err)
	}
	if has, err := c.Has(t.Context(), r); !has || err != nil {
		t.Errorf("Has = %v, %v; want the schema", has, err)
	}
	known := schemasOf(t, fake.URL())
	if _, err := ask(known, r.ID, r.DataSchema, time.Minute); err != nil {
		t.Fatal(err)
	}
	fake.Reset()
	if has, err := c.Has(t.Context(), r); has || err != nil {
		t.Errorf("Has of an empty registry = %v, %v; want false", has, err)
	}
	fake.SeedSchema("other-value", 1, r.ID, sr.Schema{Schema: unrelated})
	if has, err := c.Has(t.Context(), r); has || err != nil {
		t.Errorf("Has where the id has another schema = %v, %v; want false", has, err)
	}
	s := schemasOf(t, fake.URL())
	var other *registry.OtherError
	if _, err := ask(s, r.ID, r.DataSchema, time.Minute); !errors.As(err, &other) || errors.As(err, new(*registry.PendingError)) {
		t.Errorf("another schema under the id: %v, want it refused", err)
	}
	if schema, err := ask(s, r.ID, "", time.Minute); err != nil || schema.Fingerprint == r.Fingerprint {
		t.Errorf("without a fingerprint: %v, want what the registry has", err)
	}
	if _, err := known.Get(r.ID, r.DataSchema); err != nil {
		t.Errorf("who knew it: %v, want it to be known still", err)
	}
	again, err := c.Register(t.Context(), "a/b-value", first)
	if err != nil || again.ID == r.ID || again.DataSchema != r.DataSchema {
		t.Fatalf("Register = %+v, %v; want another id than %+v", again, err, r)
	}
	s = schemasOf(t, fake.URL())
	if schema, err := ask(s, r.ID, r.DataSchema, time.Minute); err != nil || schema.Fingerprint != r.Fingerprint {
		t.Errorf("registered again: %v, want the schema of the version", err)
	}
}

// Where the version is not what it was, a schema that became known under its new id
// serves what has the old one.
func TestASchemaUnderItsNewID(t *testing.T) {
	fake := registrytest.Start(t)
	c := client(t, registry.Config{URL: fake.URL()})
	r, err := c.Register(t.Context(), "s-value", first)
	if err != nil {
		t.Fatal(err)
	}
	fake.Reset()
	fake.SeedSchema("s-value", 1, r.ID, sr.Schema{Schema: unrelated})
	fake.SeedSchema("s-value", 2, r.ID+1, sr.Schema{Schema: first})
	s := schemasOf(t, fake.URL())
	if _, err := ask(s, r.ID+1, strings.Replace(r.DataSchema, "/versions/1", "/versions/2", 1), time.Minute); err != nil {
		t.Fatal(err)
	}
	if schema, err := ask(s, r.ID, r.DataSchema, time.Minute); err != nil || schema.Fingerprint != r.Fingerprint {
		t.Errorf("the old id: %v, want the schema", err)
	}
}

// Nothing is registered that readers do not find.
func TestAnIDThatReadersDoNotFind(t *testing.T) {
	fake := registrytest.Start(t)
	var lagging atomic.Bool
	lagging.Store(true)
	fake.Intercept(behind(&lagging))
	c := client(t, registry.Config{URL: fake.URL()})
	if r, err := c.Register(t.Context(), "s-value", first); err == nil || errors.As(err, new(*registry.RefusedError)) || !strings.Contains(err.Error(), "readers do not get") {
		t.Errorf("Register at a replica that lags = %+v, %v; want an error that is no refusal", r, err)
	}
	lagging.Store(false)
	if _, err := c.Register(t.Context(), "s-value", first); err != nil {
		t.Error(err)
	}
}

func TestDataSchema(t *testing.T) {
	const print = "5c771a91d8dad963e258198909fadd5c"
	for address, want := range map[string][3]string{
		registry.DataSchema("http://r:8081/apis/ccompat/v7", "a/b c-value", 12, print):  {print, "a%2Fb%20c-value", "12"},
		"http://r/subjects/x/versions/1":                                                {},
		"http://r/subjects/x/versions/1?sha256=" + print[1:]:                            {},
		"http://r/subjects/x/versions/1?sha256=" + strings.ToUpper(print):               {},
		"http://r/subjects/x/versions/1?sha256=" + print + "&x=1":                       {},
		"http://r/x?sha256=" + print:                                                    {print, "", ""},
		"http://r/subjects/x?sha256=" + print:                                           {print, "", ""},
		"http://r/subjects/" + strings.Repeat("x", 300) + "/versions/1?sha256=" + print: {print, "", ""},
		"?sha256=" + print: {print, "", ""},
		"":                 {},
	} {
		if got := registry.ReadDataSchema(address); got != want {
			t.Errorf("%.100s names %q, want %q", address, got, want)
		}
	}
}

// Whatever stands in a dataschema: what is kept of it is small, and a fingerprint is one.
func FuzzReadDataSchema(f *testing.F) {
	f.Add("http://r/subjects/x-value/versions/1?sha256=5c771a91d8dad963e258198909fadd5c")
	f.Add("http://r/subjects//versions/?sha256=")
	f.Fuzz(func(t *testing.T, address string) {
		got := registry.ReadDataSchema(address)
		if n := len(got[0]); n != 0 && (n != 32 || strings.Trim(got[0], "0123456789abcdef") != "") {
			t.Errorf("fingerprint %q", got[0])
		}
		if got[0] == "" && got != [3]string{} {
			t.Errorf("%q without a fingerprint", got)
		}
		if len(got[1]) > 255 || len(got[2]) > 10 {
			t.Errorf("subject of %d bytes, version of %d", len(got[1]), len(got[2]))
		}
	})
}

// behind answers for a replica that does not know ids yet.
func behind(lagging *atomic.Bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !lagging.Load() || !strings.HasPrefix(r.URL.Path, "/schemas/ids/") {
			return false
		}
		http.Error(w, `{"error_code": 40403, "message": "Schema not found"}`, http.StatusNotFound)
		return true
	}
}
