// Package registrytest provides a Schema Registry to tests: one in memory, or an
// Apicurio Registry in its own process that keeps its schemas in a Kafka or a file. One that
// cannot be started fails the test; it is never skipped.
package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// Fake is a registry in memory. It answers as Confluent's does, refuses what cannot
// read the version before, and can be told to answer otherwise: see Intercept.
type Fake struct{ *srfake.Registry }

var newVersion = regexp.MustCompile(`^/subjects/([^/]+)/versions$`)

// Start starts a registry that ends with the test.
func Start(t testing.TB) Fake {
	t.Helper()
	f := Fake{srfake.New()}
	t.Cleanup(f.Close)
	f.Intercept(f.refuseIncompatible)
	return f
}

// refuseIncompatible does what the fake leaves out: the check of BACKWARD.
func (f Fake) refuseIncompatible(w http.ResponseWriter, r *http.Request) (handled bool) {
	path := newVersion.FindStringSubmatch(r.URL.Path)
	if r.Method != http.MethodPost || path == nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var next sr.Schema
	if err != nil || json.Unmarshal(body, &next) != nil {
		return false
	}
	before, ok := f.latest(path[1])
	if !ok {
		return false
	}
	writer, err := avro.Parse(before)
	if err != nil {
		return false
	}
	reader, err := avro.Parse(next.Schema)
	if err == nil {
		err = avro.CheckCompatibility(writer, reader)
	}
	if err == nil {
		return false
	}
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(http.StatusConflict)
	_, _ = fmt.Fprintf(w, `{"error_code": 409, "message": %q}`, "Schema being registered is incompatible with an earlier schema: "+err.Error())
	return true
}

func (f Fake) latest(subject string) (text string, ok bool) {
	for version := 1; ; version++ {
		s, there := f.GetSchema(subject, version)
		if !there {
			return text, ok
		}
		text, ok = s.Schema.Schema, true
	}
}
