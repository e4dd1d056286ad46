package app

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// file is the content of BRIDGE_CONFIG.
type file struct {
	Topic         string         `yaml:"topic"`
	Subscriptions []Subscription `yaml:"subscriptions"`

	broken []string // where a value could not be read, for check to be silent about
}

// readFile returns the file at path, as it is written. wrong names every
// key that is unknown and every value of the wrong type, with line and column;
// err means that the file cannot be read at all. Neither repeats a value: it may
// be a password.
func readFile(path string) (f file, wrong []string, err error) {
	in, err := os.Open(path)
	if err != nil {
		return file{}, nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, largest+1))
	if err != nil {
		return file{}, nil, err
	}
	return parse(path, text)
}

// parse does not panic, as the library does on some files.
func parse(path string, text []byte) (f file, wrong []string, err error) {
	defer func() {
		if recover() != nil {
			f, wrong, err = file{}, nil, fmt.Errorf("%s: is not YAML that can be read", path)
		}
	}()
	content, err := parseYAML(path, text)
	if err != nil {
		return file{}, nil, err
	}
	r := reader{path: path}
	if content != nil {
		r.value("", content, reflect.ValueOf(&f).Elem())
	}
	f.broken = r.broken
	return f, r.wrong, nil
}

// mostMistakes bounds what is reported at once, and the time it takes.
const mostMistakes = 100

const moreMistakes = "more mistakes are not listed; correct these first"

// isBroken reports whether what is wrong at where follows from a value that
// could not be read, there, around it or within it.
func (f file) isBroken(where string) bool {
	within := func(inner, outer string) bool {
		rest, ok := strings.CutPrefix(inner, outer)
		return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(f.broken, func(b string) bool { return within(where, b) || within(b, where) })
}

// named is the name of a subscription behind its number, unless it is text that
// a mistake in the file has put there.
func named(name string) string {
	if !isPlain(name) {
		return ""
	}
	return " (" + name + ")"
}

// reader decodes a parsed file one value at a time, so that one wrong value does
// not hide another.
type reader struct {
	path   string
	wrong  []string
	broken []string // their places: subscriptions[0].timeout
}

func (r *reader) fail(at *token.Token, where, text string) {
	if isPlain(where) {
		text = where + ": " + text
	}
	switch {
	case len(r.wrong) < mostMistakes:
		r.wrong, r.broken = append(r.wrong, place(r.path, at)+text), append(r.broken, where)
	case len(r.wrong) == mostMistakes:
		// check compares each of its mistakes with each of these: it is spared all of it.
		r.wrong, r.broken = append(r.wrong, moreMistakes), []string{""}
	}
}

// value decodes node, found at where, into v.
func (r *reader) value(where string, node ast.Node, v reflect.Value) {
	if node.Type() == ast.NullType {
		r.filter(where, node, v)
		return // the default
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(where, node, v.Elem())
	case reflect.Struct, reflect.Map:
		wrong := len(r.wrong)
		r.entries(where, node, v)
		if len(r.wrong) == wrong {
			r.filter(where, node, v)
		}
	case reflect.Slice:
		r.items(where, node, v)
	default:
		if !isScalar(node) || yaml.NodeToValue(node, v.Addr().Interface()) != nil {
			r.fail(node.GetToken(), where, fmt.Sprintf("want %s, have %s", wanted(v.Type()), found(node)))
		}
	}
}

func (r *reader) items(where string, node ast.Node, v reflect.Value) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		r.fail(node.GetToken(), where, "want a list, have "+found(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
	for i, item := range list.Values {
		r.value(fmt.Sprintf("%s[%d]", where, i), item, v.Index(i))
	}
}

// entries decodes the keys and values of node into v, a struct or a map.
func (r *reader) entries(where string, node ast.Node, v reflect.Value) {
	m, ok := node.(ast.MapNode)
	if !ok {
		r.fail(node.GetToken(), where, "want keys and values, have "+found(node))
		return
	}
	if v.Kind() == reflect.Map {
		v.Set(reflect.MakeMap(v.Type())) // also an empty one is there
	}
	for entry := m.MapRange(); entry.Next(); {
		key := entry.Key().GetToken()
		at := strings.TrimPrefix(where+"."+key.Value, ".")
		if v.Kind() == reflect.Map {
			value := reflect.New(v.Type().Elem()).Elem()
			r.value(at, entry.Value(), value)
			v.SetMapIndex(reflect.ValueOf(key.Value), value)
			continue
		}
		field, ok := fieldOf(v, key.Value)
		if !ok {
			r.fail(key, at, "unknown key")
			continue
		}
		r.value(at, entry.Value(), field)
	}
}

// fieldOf is the field of a struct that the file calls key.
func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); key != "" && name == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func isScalar(node ast.Node) bool {
	_, ok := node.(ast.ScalarNode)
	return ok
}

// wanted describes a type to whoever writes the file.
func wanted(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "a duration such as 15s"
	}
	if t == reflect.TypeFor[Size]() {
		return "a size such as 512KiB"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}

// found describes a value to whoever wrote it, and does not repeat it.
func found(node ast.Node) string {
	switch node.(type) {
	case ast.MapNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	}
	return "text"
}
