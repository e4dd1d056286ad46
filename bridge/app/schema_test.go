package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/taskwire/taskwire/bridge/app"
)

// object is a JSON object of the schema.
type object = map[string]any

func schema(t *testing.T) (text string, root object) {
	t.Helper()
	text, _, err := run(t.Context(), t, nil, "schema")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &root); err != nil {
		t.Fatal(err)
	}
	return text, root
}

// resolve follows the reference of a schema, if it is one.
func resolve(root, of object) object {
	name, ok := of["$ref"].(string)
	if !ok {
		return of
	}
	return root["definitions"].(object)[strings.TrimPrefix(name, "#/definitions/")].(object)
}

// TestTheSchemaHasTheKeysOfTheFile, and no other. A key that was added to a type
// belongs into config.schema.json, with a description and a default.
func TestTheSchemaHasTheKeysOfTheFile(t *testing.T) {
	_, root := schema(t)
	seen := map[reflect.Type]bool{}
	var compare func(where string, typ reflect.Type, of object)
	compare = func(where string, typ reflect.Type, of object) {
		of = resolve(root, of)
		switch typ.Kind() {
		case reflect.Pointer:
			compare(where, typ.Elem(), of)
		case reflect.Slice:
			compare(where+"[]", typ.Elem(), of["items"].(object))
		case reflect.Struct:
			if seen[typ] {
				return
			}
			seen[typ] = true
			if of["additionalProperties"] != false {
				t.Errorf("%s: the schema allows unknown keys", where)
			}
			properties, _ := of["properties"].(object)
			for i := range typ.NumField() {
				key, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
				if key == "" {
					continue // not a key
				}
				property, ok := properties[key].(object)
				if !ok {
					t.Errorf("%s.%s is missing in config.schema.json", where, key)
					continue
				}
				delete(properties, key)
				if about, _ := property["description"].(string); about == "" {
					t.Errorf("%s.%s has no description", where, key)
				}
				compare(where+"."+key, typ.Field(i).Type, property)
			}
			for key := range properties {
				t.Errorf("%s.%s is in config.schema.json alone", where, key)
			}
		}
	}
	compare("", app.FileType, root)
}

// TestTheDefaultsOfTheSchema are those that are in force.
func TestTheDefaultsOfTheSchema(t *testing.T) {
	_, root := schema(t)
	text, err := yaml.Marshal(app.Subscription{}.Filled("t"))
	if err != nil {
		t.Fatal(err)
	}
	var filled object
	if err := yaml.Unmarshal(text, &filled); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "topic", "group", "sink", "deadletter"} {
		delete(filled, key) // each its own
	}
	if diff := cmp.Diff(plainly(filled), plainly(defaults(root, root["definitions"].(object)["subscription"].(object)))); diff != "" {
		t.Errorf("defaults (-in force +schema):\n%s", diff)
	}
}

// defaults are those of the properties that have one.
func defaults(root, of object) object {
	out := object{}
	for key, p := range of["properties"].(object) {
		property := p.(object)
		if def, ok := property["default"]; ok {
			out[key] = def
		} else if resolved := resolve(root, property); resolved["properties"] != nil {
			if inner := defaults(root, resolved); len(inner) > 0 {
				out[key] = inner
			}
		}
	}
	return out
}

// plainly has texts for all values: 1h and 1h0m0s are the same, as are 2 and 2.0.
func plainly(o object) map[string]string {
	out := map[string]string{}
	for key, v := range o {
		if inner, ok := v.(object); ok {
			for k, text := range plainly(inner) {
				out[key+"."+k] = text
			}
			continue
		}
		out[key] = strings.TrimSuffix(strings.TrimSuffix(fmt.Sprint(v), "0s"), "0m")
	}
	return out
}

// TestTheSchemaAndTheBridgeAgree about each example and each value of a choice.
func TestTheSchemaAndTheBridgeAgree(t *testing.T) {
	text, root := schema(t)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("config.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled := c.MustCompile("config.schema.json")
	agree := func(name string, text []byte, want bool) {
		t.Helper()
		inJSON, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(inJSON))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(value); (err == nil) != want {
			t.Errorf("%s: the schema says %v; want it accepted: %v", name, err, want)
		}
		if err := fromEnv(map[string]string{"BRIDGE_CONFIG": write(t, string(text))}); (err == nil) != want {
			t.Errorf("%s: the bridge says %v; want it accepted: %v", name, err, want)
		}
	}
	for folder, want := range map[string]bool{"valid": true, "invalid": false} {
		files, err := filepath.Glob("testdata/config/" + folder + "/*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d examples, %v", folder, len(files), err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			agree(name, text, want)
		}
	}
	for key, p := range root["definitions"].(object)["subscription"].(object)["properties"].(object) {
		choice, _ := p.(object)["enum"].([]any)
		for i, value := range append(choice, "nonsense") {
			if len(choice) > 0 {
				agree(fmt.Sprintf("%s: %v", key, value), fmt.Appendf(nil, "subscriptions: [{name: a, group: g, sink: 'http://x/', %s: %v}]", key, value), i < len(choice))
			}
		}
	}
}

// TestInit: what it prints is accepted, with its comments and when each default in
// them is made a setting, and names a schema that is where it says.
func TestInit(t *testing.T) {
	out, _, err := run(t.Context(), t, nil, "init", "--topic", "orders", "--sink", "ftp://x/")
	if err == nil {
		t.Fatalf("init of a sink that is no address printed %s", out)
	}
	out, _, err = run(t.Context(), t, nil, "init", "--topic", "orders", "--sink", "http://x/?y=%20", "--records", "wrap", "--name", "'a' #b")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(out, "\n")
	_, root := schema(t)
	if want := fmt.Sprint("# yaml-language-server: $schema=", root["$id"]); first != want || !strings.HasSuffix(want, "/main/bridge/app/config.schema.json") {
		t.Errorf("the first line is %q, want %q", first, want)
	}
	check := func(text string) string {
		t.Helper()
		out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": write(t, text)}, "check")
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		return out
	}
	asPrinted := check(out)
	if !strings.Contains(asPrinted, "records: wrap\n    group: 'bridge-''a'' #b'\n") && !strings.Contains(asPrinted, `group: "bridge-'a' #b"`) {
		t.Errorf("in force:\n%s", asPrinted)
	}
	uncommented := regexp.MustCompile(`(?m)^    # `).ReplaceAllString(out, "    ")
	if uncommented == out {
		t.Error("there is nothing in comments")
	}
	if diff := cmp.Diff(asPrinted, check(uncommented)); diff != "" {
		t.Errorf("the comments say other than what is in force (-in force +comments):\n%s", diff)
	}
}
