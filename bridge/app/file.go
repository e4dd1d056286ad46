package app

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/taskwire/taskwire/internal/kafka"
)

// file is the content of BRIDGE_CONFIG.
type file struct {
	Topic         string         `yaml:"topic"`
	Subscriptions []Subscription `yaml:"subscriptions"`

	broken []string // where a value could not be read, for check to be silent about
}

// readFile returns the file at path with defaults filled in. wrong names every
// key that is unknown and every value of the wrong type, with line and column;
// err means that the file cannot be read at all.
func readFile(path string) (f file, wrong []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return file{}, nil, err
	}
	if first := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); first != nil {
		// The library stops at the first mistake; an operator wants to know all.
		parsed, err := parser.ParseBytes(data, 0)
		if err != nil {
			return file{}, nil, syntaxError(path, err)
		}
		f, wrong = readAll(path, parsed, first)
	}
	for i := range f.Subscriptions {
		f.Subscriptions[i] = f.Subscriptions[i].filled()
	}
	return f, wrong, nil
}

// check names every mistake in the content of the file.
func (f file) check() []string {
	var wrong []string
	if f.Topic != "" {
		if err := kafka.CheckTopic(f.Topic); err != nil {
			wrong = append(wrong, "topic: "+err.Error())
		}
	}
	if len(f.Subscriptions) == 0 && !f.isBroken("subscriptions") {
		wrong = append(wrong, "subscriptions: want at least one")
	}
	names, groups := map[string]bool{}, map[string]bool{}
	for i, s := range f.Subscriptions {
		where := fmt.Sprintf("subscriptions[%d]", i)
		if s.Name != "" {
			where += " (" + s.Name + ")"
		}
		for _, w := range s.check() {
			at, _, _ := strings.Cut(w, ":")
			if !f.isBroken(fmt.Sprintf("subscriptions[%d].%s", i, at)) {
				wrong = append(wrong, where+"."+w)
			}
		}
		if names[s.Name] && s.Name != "" {
			wrong = append(wrong, where+".name: used twice")
		}
		// Two subscriptions in one group would share the partitions, and each get half of the events.
		if groups[s.Group] && s.Group != "" {
			wrong = append(wrong, where+".group: used twice; each subscription needs its own group")
		}
		names[s.Name], groups[s.Group] = true, true
	}
	return wrong
}

// isBroken reports whether what is wrong at where follows from a value that
// could not be read, there, around it or within it.
func (f file) isBroken(where string) bool {
	within := func(inner, outer string) bool {
		rest, ok := strings.CutPrefix(inner, outer)
		return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(f.broken, func(b string) bool { return within(where, b) || within(b, where) })
}

// syntaxError is the library's error without its excerpt of the file.
func syntaxError(path string, err error) error {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		return errors.New(place(path, e.GetToken()) + e.GetMessage())
	}
	return fmt.Errorf("%s: %w", path, err)
}

func place(path string, at *token.Token) string {
	return fmt.Sprintf("%s:%d:%d: ", path, at.Position.Line, at.Position.Column)
}

// readAll reads what can be read of a file in which the library found the
// mistake first.
func readAll(path string, parsed *ast.File, first error) (file, []string) {
	r := reader{path: path, anchors: map[string]ast.Node{}, named: map[string]bool{}}
	var f file
	if len(parsed.Docs) > 0 && parsed.Docs[0].Body != nil {
		r.value("", parsed.Docs[0].Body, reflect.ValueOf(&f).Elem())
	}
	if len(r.wrong) == 0 { // nothing that a single value or key shows
		r.wrong = append(r.wrong, syntaxError(path, first).Error())
	}
	f.broken = r.broken
	return f, r.wrong
}

// reader decodes a parsed file one value at a time, so that one wrong value does
// not hide another.
type reader struct {
	path    string
	anchors map[string]ast.Node
	named   map[string]bool // positions in wrong: an alias repeats a value, but not its mistake
	wrong   []string
	broken  []string // their places: subscriptions[0].timeout
}

func (r *reader) fail(at *token.Token, where, text string) {
	position := place(r.path, at)
	if r.named[position] {
		return
	}
	r.named[position] = true
	if where != "" {
		text = where + ": " + text
	}
	r.wrong, r.broken = append(r.wrong, position+text), append(r.broken, where)
}

// value decodes node, found at where, into v.
func (r *reader) value(where string, node ast.Node, v reflect.Value) {
	switch n := node.(type) {
	case *ast.AnchorNode:
		r.value(where, n.Value, v)
		r.anchors[n.Name.GetToken().Value] = n.Value // now, so that an alias within it is no loop
		return
	case *ast.AliasNode:
		if target := r.anchors[n.Value.GetToken().Value]; target != nil {
			r.value(where, target, v)
		}
		return
	case *ast.TagNode:
		r.value(where, n.Value, v)
		return
	case *ast.NullNode:
		return // the default
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(where, node, v.Elem())
	case reflect.Struct, reflect.Map:
		r.entries(where, node, v)
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
	for entry := m.MapRange(); entry.Next(); {
		if entry.KeyValue().Key.IsMergeKey() {
			r.value(where, entry.Value(), v)
			continue
		}
		key := entry.Key().GetToken()
		at := strings.TrimPrefix(where+"."+key.Value, ".")
		if v.Kind() == reflect.Map {
			value := reflect.New(v.Type().Elem()).Elem()
			r.value(at, entry.Value(), value)
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
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
	switch t.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}

// found describes a value to whoever wrote it.
func found(node ast.Node) string {
	switch node.(type) {
	case ast.MapNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	}
	return node.GetToken().Value
}
