package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"

	"github.com/twmb/avro"
)

const (
	// maxSchema bounds the text of a schema, and maxNodes what it is made of: the
	// largest in use have some 100 KiB.
	maxSchema = 256 << 10
	maxNodes  = 8 << 10
)

// Schema reads values that were written with it. It is safe for concurrent use.
type Schema struct {
	// JSONSchema is the address of the JSON Schema of what JSON returns: the schema's
	// attribute jsonSchema if that is an absolute address, else "".
	JSONSchema string
	// Fingerprint is the first half of the SHA-256, in hex, of the schema's Parsing
	// Canonical Form: of what decides how its values are read. Each record carries it,
	// and 128 bits are enough that nobody finds another schema with the same.
	Fingerprint string

	root *node
	size int // of its text
}

// kind is the type of a node.
type kind uint8

const (
	kindNull kind = iota
	kindBoolean
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBytes
	kindString
	kindFixed
	kindEnum
	kindArray
	kindMap
	kindUnion
	kindRecord
)

var primitives = map[string]kind{"null": kindNull, "boolean": kindBoolean, "int": kindInt, "long": kindLong, "float": kindFloat, "double": kindDouble, "bytes": kindBytes, "string": kindString}

// node is a type of a schema. A type that is used within itself leads back to its
// own node.
type node struct {
	kind    kind
	size    int      // of a fixed
	names   []string // what stands in front of each field of a record; the symbols of an enum, quoted
	members []*node  // fields of a record, branches of a union, the one type of an array's or a map's values
}

// ParseSchema reads an Avro schema that refers to no other.
func ParseSchema(text string) (*Schema, error) {
	if len(text) > maxSchema {
		return nil, fmt.Errorf("the schema is longer than %d bytes", maxSchema)
	}
	parsed, err := avro.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the schema is no Avro schema: %w", err)
	}
	c := compiler{named: map[string]*node{}}
	top := parsed.Root()
	root, err := c.node(top, "")
	if err != nil {
		return nil, err
	}
	s := &Schema{Fingerprint: hex.EncodeToString(parsed.Fingerprint(sha256.New())[:fingerprintLen/2]), root: root, size: len(text)}
	if address, ok := top.Props["jsonSchema"].(string); ok {
		if u, err := url.Parse(address); err == nil && u.IsAbs() {
			s.JSONSchema = address
		}
	}
	return s, nil
}

// compiler makes nodes of a schema that the library has found to be right.
type compiler struct {
	named map[string]*node // by full name
	nodes int
	depth int
}

var errSchemaSize = fmt.Errorf("the schema has more than %d types or is nested deeper than %d", maxNodes, maxDepth)

func (c *compiler) node(s *avro.SchemaNode, namespace string) (*node, error) {
	c.nodes++
	c.depth++
	defer func() { c.depth-- }()
	if c.nodes > maxNodes || c.depth > maxDepth {
		return nil, errSchemaSize
	}
	if k, ok := primitives[s.Type]; ok {
		return &node{kind: k}, nil
	}
	switch s.Type {
	case "array":
		return c.composite(kindArray, namespace, s.Items)
	case "map":
		return c.composite(kindMap, namespace, s.Values)
	case "union":
		return c.composite(kindUnion, namespace, pointers(s.Branches)...)
	case "fixed", "enum", "record", "error":
		return c.define(s)
	}
	// The name of a type that was defined before.
	for _, name := range []string{fullName(s.Type, namespace), s.Type} {
		if n, ok := c.named[name]; ok {
			return n, nil
		}
	}
	return nil, errors.New("the schema names a type that it does not define")
}

func (c *compiler) composite(k kind, namespace string, of ...*avro.SchemaNode) (*node, error) {
	n := &node{kind: k}
	for _, s := range of {
		if s == nil {
			return nil, errors.New("the schema has a type without a part")
		}
		member, err := c.node(s, namespace)
		if err != nil {
			return nil, err
		}
		n.members = append(n.members, member)
	}
	return n, nil
}

func (c *compiler) define(s *avro.SchemaNode) (*node, error) {
	n := &node{size: s.Size}
	c.named[fullName(s.Name, s.Namespace)] = n
	switch s.Type {
	case "fixed":
		n.kind = kindFixed
	case "enum":
		n.kind = kindEnum
		for _, symbol := range s.Symbols {
			n.names = append(n.names, `"`+symbol+`"`)
		}
	default:
		n.kind = kindRecord
		for i, f := range s.Fields {
			member, err := c.node(&s.Fields[i].Type, s.Namespace)
			if err != nil {
				return nil, err
			}
			n.names, n.members = append(n.names, `"`+f.Name+`":`), append(n.members, member)
		}
	}
	return n, nil
}

func fullName(name, namespace string) string {
	for i := range len(name) {
		if name[i] == '.' {
			return name
		}
	}
	if namespace == "" {
		return name
	}
	return namespace + "." + name
}

func pointers(nodes []avro.SchemaNode) []*avro.SchemaNode {
	list := make([]*avro.SchemaNode, len(nodes))
	for i := range nodes {
		list[i] = &nodes[i]
	}
	return list
}
