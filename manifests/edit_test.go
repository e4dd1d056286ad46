package manifests_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// find returns the object with a key and a name, as "apps/v1/Deployment bridge".
func find(t *testing.T, objects []object, of string) object {
	t.Helper()
	for _, o := range objects {
		if o.key()+" "+o.name() == of {
			return o
		}
	}
	t.Fatalf("%s was not rendered", of)
	return nil
}

// set puts value at a path such as spec.ports.0.name. A nil value removes what is
// there, an index one past the end appends, the name of a variable stands for its
// index, and a ~ in a step stands for a dot.
func set(t *testing.T, o object, path string, value any) {
	t.Helper()
	steps := strings.Split(path, ".")
	for i, s := range steps {
		steps[i] = strings.ReplaceAll(s, "~", ".")
	}
	if n, ok := value.(int); ok {
		value = float64(n) // as JSON decodes it
	}
	put(t, map[string]any(o), steps, value)
}

// put returns the changed container, because a list that grows or shrinks is a new one.
func put(t *testing.T, in any, steps []string, value any) any {
	t.Helper()
	step, last := steps[0], len(steps) == 1
	switch in := in.(type) {
	case map[string]any:
		switch {
		case !last:
			in[step] = put(t, in[step], steps[1:], value)
		case value == nil:
			delete(in, step)
		default:
			in[step] = value
		}
		return in
	case []any:
		i, err := strconv.Atoi(step)
		if err != nil && last {
			return variable(in, step, value)
		}
		if err != nil || i < 0 || i > len(in) || i == len(in) && !last {
			t.Fatalf("no item %q in a list of %d items", step, len(in))
		}
		switch {
		case !last:
			in[i] = put(t, in[i], steps[1:], value)
		case value == nil:
			return slices.Delete(in, i, i+1)
		case i == len(in):
			return append(in, value)
		default:
			in[i] = value
		}
		return in
	}
	t.Fatalf("no object or list at %q", step)
	return nil
}

// variable sets, adds or removes one environment variable.
func variable(in []any, name string, value any) any {
	in = slices.DeleteFunc(in, func(v any) bool { return v.(map[string]any)["name"] == name })
	if value == nil {
		return in
	}
	return append(in, map[string]any{"name": name, "value": value})
}

// copied returns a deep copy for a test to change.
func copied(t *testing.T, objects []object) []object {
	t.Helper()
	data, err := json.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	var c []object
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}
