package cesql_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
	"github.com/taskwire/taskwire/internal/event"
)

type conformance struct {
	Name  string
	Tests []struct {
		Name           string
		Expression     string
		Result         any
		Error          string
		Event          map[string]any
		EventOverrides map[string]any `yaml:"eventOverrides"`
	}
}

// TestConformance runs every case of the specification. A file of theirs that
// this does not find would pass too, so it counts them.
func TestConformance(t *testing.T) {
	paths, err := filepath.Glob("testdata/cesql_tck/*.yaml")
	if err != nil || len(paths) != 18 {
		t.Fatalf("found %d files, want 18 (%v)", len(paths), err)
	}
	cases := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file conformance
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, c := range file.Tests {
			cases++
			t.Run(file.Name+"/"+c.Name, func(t *testing.T) {
				attributes := map[string]any{"specversion": "1.0", "id": "1", "source": "here", "type": "t"}
				if c.Event != nil {
					attributes = c.Event
				}
				maps.Copy(attributes, c.EventOverrides)
				result, kind := evaluate(t, c.Expression, attributes)
				if string(kind) != c.Error {
					t.Errorf("%s: error %q, want %q", c.Expression, kind, c.Error)
				}
				if want := expected(c.Result); c.Result != nil && result != want {
					t.Errorf("%s = %v %q, want %v %q", c.Expression, result.Type(), result, want.Type(), want)
				}
			})
		}
	}
	if cases != 275 {
		t.Errorf("ran %d cases, want 275", cases)
	}
}

// evaluate takes an expression that does not parse for one that is false.
func evaluate(t *testing.T, expression string, attributes map[string]any) (cesql.Value, cesql.Kind) {
	t.Helper()
	text, err := json.Marshal(attributes)
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	x, err := cesql.Parse(expression)
	if err != nil {
		return cesql.OfBool(false), kindOf(t, err)
	}
	v, err := x.Eval(e)
	return v, kindOf(t, err)
}

func kindOf(t *testing.T, err error) cesql.Kind {
	var wrong *cesql.Error
	if err != nil && !errors.As(err, &wrong) {
		t.Fatalf("%v is no *cesql.Error", err)
	}
	if wrong == nil {
		return ""
	}
	return wrong.Kind
}

// expected has times in UTC, the form in which all filters see them.
func expected(result any) cesql.Value {
	switch v := result.(type) {
	case bool:
		return cesql.OfBool(v)
	case uint64:
		return cesql.OfInt(int32(v))
	case int64:
		return cesql.OfInt(int32(v))
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			v = at.UTC().Format(time.RFC3339Nano)
		}
		return cesql.OfString(v)
	}
	return cesql.Value{}
}
