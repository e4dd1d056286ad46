package schemas_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/avro"

	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/schemas"
)

const subject = "task-events-value"

// versions are the Avro schemas of the subject, the first one first.
func versions(t *testing.T) []string {
	t.Helper()
	var all []string
	for n := 1; ; n++ {
		text, err := fs.ReadFile(schemas.Files, fmt.Sprintf("%s/v%d.avsc", subject, n))
		if err != nil {
			break
		}
		all = append(all, string(text))
	}
	files, err := fs.Glob(schemas.Files, subject+"/*.avsc")
	if err != nil || len(all) == 0 || len(files) != len(all) {
		t.Fatalf("%d versions in %d files, want v1.avsc, v2.avsc and so on: %v", len(all), len(files), err)
	}
	return all
}

// Whoever reads with a version can read what was written with any version before.
// The registry checks the same (BACKWARD), for the last one.
func TestEachVersionReadsThoseBefore(t *testing.T) {
	all := versions(t)
	for n, reader := range all {
		for before, writer := range all[:n] {
			if err := avro.CheckCompatibility(avro.MustParse(writer), avro.MustParse(reader)); err != nil {
				t.Errorf("v%d.avsc cannot read what v%d.avsc has written: %v", n+1, before+1, err)
			}
		}
	}
	if all[len(all)-1] != schemas.TaskEvent {
		t.Errorf("schemas.TaskEvent is not v%d.avsc, the highest version", len(all))
	}
}

// What the check above refuses and lets pass, so that it is known to be one.
func TestTheCheckKnowsChanges(t *testing.T) {
	current := versions(t)[len(versions(t))-1]
	change := func(old, by string) string {
		if !strings.Contains(current, old) {
			t.Fatalf("%s is not in the schema", old)
		}
		return strings.Replace(current, old, by, 1)
	}
	first := `{"name": "task_id"`
	for name, c := range map[string]struct {
		next string
		ok   bool
	}{
		"a new optional field":          {change(first, `{"name": "priority", "type": ["null", "int"], "default": null}, `+first), true},
		"a field renamed by alias":      {change(`"name": "owner_id"`, `"name": "assignee_id", "aliases": ["owner_id"]`), true},
		"a field less":                  {change(`{"name": "title", "type": "string", "doc": "1 to 500 characters"},`, ""), true},
		"a new field without a default": {change(first, `{"name": "priority", "type": "int"}, `+first), false},
		"a field renamed":               {change(`"name": "title"`, `"name": "summary"`), false},
		"another type":                  {change(`"name": "title", "type": "string"`, `"name": "title", "type": "int"`), false},
		"a status less":                 {change(`"in_progress", `, ""), false},
	} {
		if err := avro.CheckCompatibility(avro.MustParse(current), avro.MustParse(c.next)); (err == nil) != c.ok {
			t.Errorf("%s: %v, want it accepted: %v", name, err, c.ok)
		}
	}
}

// A version that was published is in registries and in front of records: a change is
// a new version. SHA256SUMS lists them as sha256sum does.
func TestPublishedVersionsDoNotChange(t *testing.T) {
	sums, err := os.ReadFile("SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(schemas.Files, "*/*")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[name] = sum
	}
	for _, name := range files {
		text, err := fs.ReadFile(schemas.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		switch sum := fmt.Sprintf("%x", sha256.Sum256(text)); {
		case listed[name] == "":
			t.Errorf("%s is not in SHA256SUMS: sha256sum %s >> SHA256SUMS", name, name)
		case listed[name] != sum:
			t.Errorf("%s was changed; take the change back and add a version", name)
		}
		delete(listed, name)
	}
	for name := range listed {
		t.Errorf("%s was published and is gone", name)
	}
}

// The JSON Schema of a version says of JSON what the Avro schema says of Avro.
func TestJSONSchemasAreTheAvroSchemas(t *testing.T) {
	for n, text := range versions(t) {
		name := fmt.Sprintf("%s/v%d.schema.json", subject, n+1)
		raw, err := fs.ReadFile(schemas.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		root := avro.MustParse(text).Root()
		want := asJSONSchema(t, root)
		want["$schema"], want["$id"], want["title"], want["description"] = "https://json-schema.org/draft/2020-12/schema", root.Props["jsonSchema"], root.Name, root.Doc
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs from v%d.avsc (-avro +json):\n%s", name, n+1, diff)
		}
		if id, _ := got["$id"].(string); path.Base(id) != path.Base(name) || !strings.HasSuffix(id, "/schemas/"+name) {
			t.Errorf("$id of %s is %s, want its address", name, id)
		}
	}
	if got, want := schemas.TaskEventJSON, avro.MustParse(schemas.TaskEvent).Root().Props["jsonSchema"]; got != want {
		t.Errorf("TaskEventJSON = %s, want %s", got, want)
	}
}

// asJSONSchema knows the types that are in use.
func asJSONSchema(t *testing.T, n *avro.SchemaNode) map[string]any {
	t.Helper()
	switch n.Type {
	case "string", "null", "boolean":
		return map[string]any{"type": n.Type}
	case "int", "long":
		return map[string]any{"type": "integer"}
	case "enum":
		symbols := []any{}
		for _, s := range n.Symbols {
			symbols = append(symbols, s)
		}
		return map[string]any{"enum": symbols}
	case "union":
		types := []any{}
		for i := range n.Branches {
			types = append(types, asJSONSchema(t, &n.Branches[i])["type"])
		}
		return map[string]any{"type": types}
	case "record":
		properties, required := map[string]any{}, []any{}
		for _, f := range n.Fields {
			property := asJSONSchema(t, &f.Type)
			if f.Doc != "" {
				property["description"] = f.Doc
			}
			properties[f.Name], required = property, append(required, f.Name)
		}
		return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	}
	t.Fatalf("%s in the schema: say here what its JSON Schema is", n.Type)
	return nil
}

// Values say the same: what Avro can carry is valid as JSON, and what is valid it
// can carry.
func TestValuesOfBothSchemas(t *testing.T) {
	encoder := avro.MustParse(schemas.TaskEvent)
	reader, err := registry.ParseSchema(schemas.TaskEvent)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fs.ReadFile(schemas.Files, strings.TrimPrefix(schemas.TaskEventJSON[strings.Index(schemas.TaskEventJSON, "/schemas/"):], "/schemas/"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(schemas.TaskEventJSON, doc); err != nil {
		t.Fatal(err)
	}
	validator, err := compiler.Compile(schemas.TaskEventJSON)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{
		`{"task_id":"t","title":"x","status":"pending","owner_id":null}`,
		`{"task_id":"t","title":"Grüße 😀","status":"completed","owner_id":"o"}`,
		`{"task_id":"t","title":"x","status":"postponed","owner_id":null}`,
		`{"task_id":"t","title":null,"status":"pending","owner_id":null}`,
		`{"task_id":1,"title":"x","status":"pending","owner_id":null}`,
		`{"task_id":"t","title":"x","status":"pending","owner_id":7}`,
		`{"task_id":"t","status":"pending","owner_id":null}`,
		`{"task_id":"t","title":"x","status":"pending","owner_id":null,"more":1}`,
		`[]`, `null`, `"x"`,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		valid := validator.Validate(value) == nil
		if carried := carries(encoder, reader, data); valid != carried {
			t.Errorf("%s: valid as JSON %v, carried by Avro %v", data, valid, carried)
		}
	}
}

// carries reports whether Avro gives data back byte for byte.
func carries(encoder *avro.Schema, reader *registry.Schema, data string) bool {
	var value any
	if json.Unmarshal([]byte(data), &value) != nil {
		return false
	}
	encoded, err := encoder.Encode(value)
	if err != nil {
		return false
	}
	back, err := reader.AppendJSON(nil, encoded)
	return err == nil && string(back) == data
}
