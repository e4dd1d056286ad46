package registry_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/avro"

	"github.com/taskwire/taskwire/internal/registry"
)

const everything = `{"type": "record", "name": "All", "namespace": "a.b", "jsonSchema": "https://example.com/s.json", "fields": [
	{"name": "none", "type": "null"}, {"name": "yes", "type": "boolean"}, {"name": "i", "type": "int"}, {"name": "l", "type": "long"},
	{"name": "f", "type": "float"}, {"name": "d", "type": "double"}, {"name": "by", "type": "bytes"}, {"name": "s", "type": "string"},
	{"name": "fx", "type": {"type": "fixed", "name": "Four", "size": 4}},
	{"name": "e", "type": {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}},
	{"name": "again", "type": "Suit"}, {"name": "full", "type": "a.b.Four"},
	{"name": "list", "type": {"type": "array", "items": "long"}},
	{"name": "m", "type": {"type": "map", "values": ["null", "string"]}},
	{"name": "next", "type": ["null", "All"]},
	{"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
	{"name": "inner", "type": {"type": "record", "name": "Inner", "namespace": "c", "fields": [{"name": "x", "type": ["int", "null"]}, {"name": "deep", "type": {"type": "array", "items": "a.b.Suit"}}]}}]}`

func value(next any) map[string]any {
	return map[string]any{
		"none": nil, "yes": true, "i": int32(-5), "l": int64(math.MaxInt64), "f": float32(0.1), "d": 1e300, "by": []byte{0, 0xff, '"'}, "s": "Grüße \"\\\n",
		"fx": [4]byte{1, 2, 3, 200}, "e": "HEARTS", "again": "SPADES", "full": [4]byte{}, "list": []int64{1, -2, 3}, "m": map[string]any{"k": "v"},
		"next": next, "when": int64(1234), "inner": map[string]any{"x": int32(7), "deep": []any{"HEARTS"}},
	}
}

func parse(t testing.TB, text string) *registry.Schema {
	t.Helper()
	s, err := registry.ParseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The library's own JSON of a value is the same JSON.
func TestJSONIsThatOfTheLibrary(t *testing.T) {
	theirs, ours := avro.MustParse(everything), parse(t, everything)
	encoded, err := theirs.Encode(value(value(nil)))
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	if _, err := theirs.Decode(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	want, err := theirs.EncodeJSON(decoded)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ours.AppendJSON([]byte("x"), encoded)
	if err != nil || got[0] != 'x' {
		t.Fatalf("AppendJSON = %s, %v", got, err)
	}
	if !equal(t, got[1:], want) {
		t.Errorf("AppendJSON = %s\nwant       %s", got[1:], want)
	}
	if ours.JSONSchema != "https://example.com/s.json" {
		t.Errorf("JSONSchema = %q", ours.JSONSchema)
	}
	if text := string(got); !strings.HasPrefix(text, `x{"none":null,"yes":true,"i":-5,"l":9223372036854775807,"f":0.1,`) {
		t.Errorf("AppendJSON = %s, want the fields in their order and every digit", text)
	}
}

func equal(t testing.TB, a, b []byte) bool {
	t.Helper()
	var x, y any
	for text, into := range map[*[]byte]*any{&a: &x, &b: &y} {
		d := json.NewDecoder(bytes.NewReader(*text))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatalf("%v: %s", err, *text)
		}
	}
	return reflect.DeepEqual(x, y)
}

func varint(n int64) []byte { return binary.AppendVarint(nil, n) }

// What takes no bytes can be announced without end; what takes some is not there.
func TestBombs(t *testing.T) {
	many := bytes.Join([][]byte{varint(math.MaxInt64)}, nil)
	for name, c := range map[string]struct {
		schema string
		value  []byte
		want   string
	}{
		"nulls without end":       {`{"type": "array", "items": "null"}`, many, "longer than 1048576 bytes"},
		"empty records":           {`{"type": "array", "items": {"type": "record", "name": "R", "fields": []}}`, many, "longer than"},
		"a long string":           {`"string"`, append(many, 'x'), "ends too early"},
		"a negative string":       {`"string"`, varint(-1), "out of its range"},
		"the least block":         {`{"type": "array", "items": "null"}`, varint(math.MinInt64), "out of its range"},
		"an endless number":       {`"long"`, bytes.Repeat([]byte{0xff}, 11), "out of its range"},
		"an int that is a long":   {`"int"`, varint(1 << 40), "out of its range"},
		"an enum's next symbol":   {`{"type": "enum", "name": "E", "symbols": ["A"]}`, varint(1), "no such branch"},
		"a union's next branch":   {`["null", "int"]`, varint(2), "no such branch"},
		"bytes behind":            {`"null"`, []byte{0}, "goes on for 1 bytes"},
		"a key twice":             {`{"type": "map", "values": "null"}`, append(append(varint(2), "\x02a\x02a"...), 0), "a key twice"},
		"a string of no UTF-8":    {`"string"`, []byte{2, 0xff}, "not UTF-8"},
		"a boolean of two":        {`"boolean"`, []byte{2}, "neither 0 nor 1"},
		"a list of itself":        {`{"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}`, bytes.Repeat([]byte{2}, 1000), "nested deeper than 128"},
		"an array within itself":  {`{"type": "record", "name": "L", "fields": [{"name": "all", "type": {"type": "array", "items": "L"}}]}`, bytes.Repeat([]byte{2}, 1000), "nested deeper than 128"},
		"large through repeating": {`{"type": "array", "items": {"type": "enum", "name": "E", "symbols": ["` + strings.Repeat("A", 100_000) + `"]}}`, append(varint(1<<30), make([]byte, 1<<20)...), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(t, c.schema).AppendJSON(nil, c.value)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("AppendJSON = %.100s, %v; want an error with %q", got, err, c.want)
			}
		})
	}
}

func TestSchemaBombs(t *testing.T) {
	fields := func(n int, of string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`{"name":"f` + strings.Repeat("x", i%3) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + `","type":` + of + `}`)
		}
		return b.String()
	}
	for name, schema := range map[string]string{
		"no JSON":              `{`,
		"no schema":            `{"a": 1}`,
		"too long":             `{"type": "record", "name": "R", "doc": "` + strings.Repeat("x", 256<<10) + `", "fields": []}`,
		"a record of itself":   `{"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}`,
		"an unknown name":      `{"type": "record", "name": "R", "fields": [{"name": "r", "type": "S"}]}`,
		"deep":                 strings.Repeat(`{"type": "array", "items": `, 500) + `"null"` + strings.Repeat(`}`, 500),
		"deeper than any":      strings.Repeat(`{"type": "array", "items": `, 9000) + `"null"` + strings.Repeat(`}`, 9000),
		"a fixed without end":  `{"type": "fixed", "name": "F", "size": 99999999999999999999}`,
		"a fixed of less than": `{"type": "fixed", "name": "F", "size": -1}`,
	} {
		if _, err := registry.ParseSchema(schema); err == nil {
			// A record of itself may be a schema; there is no value of it.
			s := parse(t, schema)
			if _, err := s.AppendJSON(nil, nil); err == nil {
				t.Errorf("%s: a schema with a value", name)
			}
		}
	}
	if _, err := registry.ParseSchema(`{"type": "record", "name": "R", "fields": [` + fields(500, `"null"`) + `]}`); err != nil {
		t.Errorf("500 fields: %v", err)
	}
	if _, err := registry.ParseSchema(`[` + strings.TrimSuffix(strings.Repeat(`{"type":"array","items":"null"},`, 1), ",") + `]`); err != nil {
		t.Error(err)
	}
}

func TestHeader(t *testing.T) {
	b := registry.AppendHeader(nil, 258)
	if want := []byte{0, 0, 0, 1, 2}; !bytes.Equal(b, want) {
		t.Errorf("AppendHeader = %v, want %v", b, want)
	}
	id, rest, err := registry.CutHeader(append(b, 'x'))
	if id != 258 || string(rest) != "x" || err != nil {
		t.Errorf("CutHeader = %d, %q, %v", id, rest, err)
	}
	for _, wrong := range [][]byte{nil, {0, 0, 0, 1}, {1, 0, 0, 0, 1}, {0, 0xff, 0, 0, 0}, []byte(`{"a": 1}`)} {
		if _, _, err := registry.CutHeader(wrong); err == nil {
			t.Errorf("CutHeader(%v) = nil", wrong)
		}
	}
}

// Whatever the bytes are: no panic, JSON within its bound, and the same as the
// library's where that has one.
func FuzzAppendJSON(f *testing.F) {
	theirs, ours := avro.MustParse(everything), parse(f, everything)
	for _, next := range []any{nil, value(nil)} {
		b, err := theirs.Encode(value(next))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ours.AppendJSON(nil, b)
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("no JSON: %s", got)
		}
		var decoded any
		rest, err := theirs.Decode(b, &decoded)
		if err != nil || len(rest) > 0 {
			t.Fatalf("the library refuses it: %v", err)
		}
		want, err := theirs.EncodeJSON(decoded)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(t, got, want) {
			t.Errorf("AppendJSON = %s\nwant       %s", got, want)
		}
	})
}

func TestNothingIsAllocatedButTheResult(t *testing.T) {
	schema := parse(t, `{"type": "record", "name": "T", "fields": [{"name": "task_id", "type": "string"}, {"name": "title", "type": "string"}, {"name": "owner", "type": ["null", "string"]}]}`)
	encoded, err := avro.MustParse(`{"type": "record", "name": "T", "fields": [{"name": "task_id", "type": "string"}, {"name": "title", "type": "string"}, {"name": "owner", "type": ["null", "string"]}]}`).
		Encode(map[string]any{"task_id": "1", "title": "Buy milk", "owner": "2"})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := schema.AppendJSON(dst, encoded); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations, want at most 1", n)
	}
}
