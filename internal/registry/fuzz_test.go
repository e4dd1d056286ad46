package registry_test

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/internal/registry"
)

// Whatever a registry answers: no panic, an error in one line, and what is registered is
// complete.
func FuzzAnswers(f *testing.F) {
	f.Add(200, `{"compatibilityLevel": "BACKWARD", "subject": "s-value", "version": 1, "id": 1, "schema": "{\"type\":\"record\",\"name\":\"T\",\"fields\":[{\"name\":\"a\",\"type\":\"string\"}]}"}`)
	f.Add(200, `{"compatibilityLevel": "FULL", "subject": "s-value", "version": 1, "id": 2147483648, "schema": "{\"type\":\"record\",\"name\":\"T\",\"fields\":[{\"name\":\"a\",\"type\":\"string\"}]}"}`)
	f.Add(200, `{"compatibility": "FULL", "version": -1, "id": 2147483648, "schema": "\"string\"", "schemaType": "JSON", "references": [{"name": "x", "subject": "y", "version": 1}]}`)
	f.Add(404, `{"error_code": 40403, "message": "Schema not found\nhere"}`)
	f.Add(409, `{"error_code": 409, "message": "incompatible"}`)
	f.Add(302, ``)
	f.Add(200, `[1, {}]`)
	var mu sync.Mutex
	status, body := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	f.Cleanup(server.Close)
	c, err := registry.New(registry.Config{URL: server.URL}, "test")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, code int, text string) {
		if code < 200 || code > 599 {
			t.Skip("no status of an answer")
		}
		mu.Lock()
		status, body = code, text
		mu.Unlock()
		r, err := c.Register(t.Context(), "s-value", first)
		if err == nil && (r.ID <= 0 || r.ID > math.MaxInt32 || r.Version <= 0 || len(r.Fingerprint) != 32 || !strings.HasSuffix(r.DataSchema, r.Fingerprint)) {
			t.Errorf("Register = %+v", r)
		}
		if refused := (*registry.RefusedError)(nil); err != nil && !errors.As(err, &refused) && strings.Contains(err.Error(), "\n") {
			t.Errorf("not one line: %q", err)
		}
		if has, err := c.Has(t.Context(), registry.Registered{ID: 1, Fingerprint: "00"}); has {
			t.Errorf("Has = true, %v, for a fingerprint that no schema has", err)
		}
	})
}

// Whatever a schema says and a value is: no panic, JSON within its bound or an error,
// and the same again.
func FuzzParseSchema(f *testing.F) {
	for _, text := range []string{everything, first, compatible, unrelated, `"bytes"`, `["null", {"type": "fixed", "name": "F", "size": 3}]`, `{"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]}`} {
		f.Add(text, []byte("\x02a\x00"))
	}
	f.Fuzz(func(t *testing.T, text string, value []byte) {
		s, err := registry.ParseSchema(text)
		if err != nil {
			return
		}
		if len(s.Fingerprint) != 32 {
			t.Errorf("fingerprint %q", s.Fingerprint)
		}
		got, err := s.AppendJSON(nil, value)
		if err != nil {
			return
		}
		if !json.Valid(got) || len(got) > 7<<20 {
			t.Errorf("%d bytes, JSON %v: %.200s", len(got), json.Valid(got), got)
		}
		again, err := registry.ParseSchema(text)
		if err != nil || again.Fingerprint != s.Fingerprint {
			t.Errorf("the second time: %v, or another fingerprint", err)
		}
	})
}

// Whatever stands in front of a value: what is read is what was written.
func FuzzCutHeader(f *testing.F) {
	f.Add(registry.AppendHeader(nil, 1))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, value, err := registry.CutHeader(b)
		if err == nil && string(append(registry.AppendHeader(nil, id), value...)) != string(b) {
			t.Errorf("CutHeader(%x) = %d, %x", b, id, value)
		}
	})
}
