// Package openapitest holds what a service answers against its OpenAPI document.
package openapitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/goccy/go-yaml"
)

// Served is the YAML document at source as its service serves it: as JSON, in the
// same order. With update it is written to openapi.json in the test's folder, and
// the test ends.
func Served(t *testing.T, source string, update bool) string {
	t.Helper()
	document, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	var served bytes.Buffer
	if err := json.Indent(&served, compact, "", " "); err != nil {
		t.Fatal(err)
	}
	if update {
		if err := os.WriteFile("openapi.json", served.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Skip("openapi.json is written; run the tests again")
	}
	return served.String()
}

// Answers are all that a document lists, as "operation status", sorted.
func Answers(document *openapi3.T) (listed []string) {
	for _, item := range document.Paths.Map() {
		for _, op := range item.Operations() {
			for status := range op.Responses.Map() {
				listed = append(listed, op.OperationID+" "+status)
			}
		}
	}
	slices.Sort(listed)
	return listed
}

// Conforms holds an answer against the document, and the request too when it was
// accepted: the document must allow all that the service does. It returns which
// of Answers it was.
func Conforms(t *testing.T, in *openapi3filter.RequestValidationInput, status int, header http.Header, body []byte) string {
	t.Helper()
	r := in.Request
	if err := openapi3filter.ValidateRequest(context.Background(), in); status < 400 && err != nil {
		t.Errorf("%s %s is answered %d and refused by the document: %v", r.Method, r.URL, status, err)
	}
	if in.Route.Operation.Responses.Status(status) == nil {
		t.Errorf("%s %s is answered %d, which the document does not list", r.Method, r.URL, status)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: status, Header: header, Options: in.Options}
	if err := openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes(body)); err != nil {
		t.Errorf("%s %s is answered %d %s, which the document does not describe: %v", r.Method, r.URL, status, body, err)
	}
	return fmt.Sprintf("%s %d", in.Route.Operation.OperationID, status)
}
