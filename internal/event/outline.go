package event

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/types"
)

// Outline is what a structured event says of itself, for a reader that passes the
// event on as it is. It is read in one pass over the record, without an Event and
// without allocations. It is for one goroutine.
//
// There is one reading of an event. Outline reads only what it can check in full;
// the rest, such as attributes beyond ASCII, is FromRecord's. Whatever Outline
// accepts FromRecord accepts in ModeStructured, with the same attributes.
type Outline struct {
	attributes []outlined
	size       int
	scan       scanner

	// What was checked last. Nearly all events of a topic agree in these.
	recordType, source, schema, dataType string
	structured, json                     bool // recordType, dataType
}

type outlined struct {
	name, text []byte // of the record
}

// mostOutlined bounds the names of an object that Outline reads: it compares each
// with all others.
const mostOutlined = 32

// Read reads the event of a record and keeps its bytes until the next call. False
// says nothing about the record: ask FromRecord.
func (o *Outline) Read(r Record) bool {
	o.attributes, o.size = o.attributes[:0], 0
	return r.Value != nil && len(r.Value) <= MaxBytes && o.isStructured(r.Headers) && o.event(r.Value)
}

// Attribute returns the canonical text of an attribute, as the function Attribute
// does. It lies in the record.
func (o *Outline) Attribute(name string) ([]byte, bool) {
	for i := range o.attributes {
		if string(o.attributes[i].name) != name {
			continue
		}
		text := o.attributes[i].text
		if name == "time" {
			t, err := parseTime(string(text))
			return []byte(types.FormatTime(t)), err == nil
		}
		return text, true
	}
	return nil, false
}

// isStructured does what FromRecord does before it reads the value. An event whose
// headers do not say what it is counts if it has the members.
func (o *Outline) isStructured(headers []Header) bool {
	var contentType []byte
	seen, binary := false, false
	for i := range headers {
		switch key := headers[i].Key; {
		case strings.EqualFold(key, "content-type"):
			if seen {
				return false
			}
			contentType, seen = headers[i].Value, true
		case len(key) >= 3 && strings.EqualFold(key[:3], "ce_"):
			binary = true
		}
	}
	if string(contentType) != o.recordType {
		o.recordType = string(contentType)
		m, _, _ := strings.Cut(strings.ToLower(o.recordType), ";")
		o.structured = strings.TrimSpace(m) == mediaStructured
	}
	return o.structured || !seen && !binary
}

func (o *Outline) event(value []byte) bool {
	s := &o.scan
	s.b, s.at, s.names = value, 0, s.names[:0]
	hasData := false
	ok := s.object(func(name []byte) bool {
		if string(name) == "data" {
			hasData = true
			return s.value(1)
		}
		return o.attribute(name)
	})
	if !ok || s.next() != 0 || s.at < len(s.b) {
		return false
	}
	for _, name := range coreNames[:4] {
		if _, ok := o.Attribute(name); !ok {
			return false
		}
	}
	return !hasData || o.dataIsJSON()
}

// attribute reads a value and does what builder does.
func (o *Outline) attribute(name []byte) bool {
	if len(name) == 0 || len(name) > maxName {
		return false
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	text, quoted, ok := o.scan.scalar()
	if !ok || len(text) > maxValue || !o.fits(name, text, quoted) {
		return false
	}
	o.attributes = append(o.attributes, outlined{name, text})
	o.size += len(name) + len(text)
	return o.size <= maxContext
}

// fits checks the value of one of the specification's own attributes.
func (o *Outline) fits(name, text []byte, quoted bool) bool {
	switch string(name) {
	case "specversion":
		return quoted && string(text) == specVersion
	case "id", "type", "subject":
		return quoted && len(text) > 0
	case "source":
		return quoted && len(text) > 0 && same(&o.source, text, isURI)
	case "dataschema":
		return quoted && len(text) > 0 && same(&o.schema, text, func(s string) bool { return isURI(s) && absolute(s) })
	case "time":
		_, err := parseTime(string(text))
		return quoted && err == nil
	case "datacontenttype":
		return quoted && len(text) > 0 && same(&o.dataType, text, func(s string) bool {
			_, err := mediaType(s)
			o.json = jsonType(&s)
			return err == nil
		})
	}
	return true
}

// same reports whether text is what was good the last time, or good now.
func same(last *string, text []byte, good func(string) bool) bool {
	if string(text) == *last {
		return true
	}
	s := string(text)
	if !good(s) {
		return false
	}
	*last = s
	return true
}

func isURI(s string) bool {
	_, err := uri(s)
	return err == nil && uriCharacters(s)
}

// dataIsJSON: other data is a string, which is read another way.
func (o *Outline) dataIsJSON() bool {
	_, ok := o.Attribute("datacontenttype")
	return !ok || o.json
}

// scanner reads JSON in place. It is stricter than JSON: false may also say that it
// does not know.
type scanner struct {
	b     []byte
	at    int
	names [][]byte // of the objects it is in
}

// mostNested is far below the limit of the JSON library.
const mostNested = 64

// next is the next byte that is no white space, 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.b) {
		if c := s.b[s.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.at++
	}
	return 0
}

// take is true for c, and goes past it.
func (s *scanner) take(c byte) bool {
	if s.next() != c || s.at == len(s.b) {
		return false
	}
	s.at++
	return true
}

// object reads one whose names differ; value reads that of a name.
func (s *scanner) object(value func(name []byte) bool) bool {
	outer := len(s.names)
	if !s.take('{') {
		return false
	}
	for !s.take('}') {
		if len(s.names) > outer && !s.take(',') || s.next() != '"' {
			return false
		}
		name, plain, ok := s.text()
		if !ok || !plain || !s.isNew(name, outer) || !s.take(':') || !value(name) {
			return false
		}
	}
	s.names = s.names[:outer]
	return true
}

func (s *scanner) isNew(name []byte, outer int) bool {
	for _, other := range s.names[outer:] {
		if string(other) == string(name) {
			return false
		}
	}
	s.names = append(s.names, name)
	return len(s.names)-outer <= mostOutlined
}

// value goes past any value.
func (s *scanner) value(depth int) bool {
	switch s.next() {
	case '{':
		return depth < mostNested && s.object(func([]byte) bool { return s.value(depth + 1) })
	case '[':
		return depth < mostNested && s.array(depth)
	case '"':
		_, _, ok := s.text()
		return ok
	}
	_, ok := s.bare()
	return ok
}

func (s *scanner) array(depth int) bool {
	s.at++
	if s.take(']') {
		return true
	}
	for s.value(depth + 1) {
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
	return false
}

// scalar reads the value of an attribute: a plain string, an integer in its one
// canonical form, or a boolean.
func (s *scanner) scalar() (text []byte, quoted, ok bool) {
	if s.next() == '"' {
		text, plain, ok := s.text()
		return text, true, ok && plain
	}
	text, ok = s.bare()
	if !ok || string(text) == "null" {
		return nil, false, false
	}
	if c := text[0]; c == 't' || c == 'f' {
		return text, false, true
	}
	n, err := strconv.ParseInt(string(text), 10, 32)
	var canonical [16]byte
	return text, false, err == nil && string(strconv.AppendInt(canonical[:0], n, 10)) == string(text)
}

// text reads a string. It is plain when it is printable ASCII without escapes.
func (s *scanner) text() (text []byte, plain, ok bool) {
	start, high := s.at+1, false
	plain = true
	for s.at = s.ordinary(start); s.at < len(s.b); s.at = s.ordinary(s.at) {
		switch c := s.b[s.at]; {
		case c == '"':
			text = s.b[start:s.at]
			s.at++
			return text, plain, !high || utf8.Valid(text)
		case c == '\\':
			plain = false
			if !s.escape() {
				return nil, false, false
			}
		case c > '~':
			plain, high = false, true
			s.at++
		default:
			return nil, false, false
		}
	}
	return nil, false, false
}

// ordinary is the place after those bytes of a string that stand for themselves.
func (s *scanner) ordinary(at int) int {
	b := s.b
	for at < len(b) && ordinary[b[at]] {
		at++
	}
	return at
}

var ordinary = func() (is [256]bool) {
	for c := ' '; c <= '~'; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// escape goes past one. Halves of surrogate pairs are the library's.
func (s *scanner) escape() bool {
	if s.at+1 >= len(s.b) {
		return false
	}
	switch s.b[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return true
	case 'u':
		if s.at+6 > len(s.b) {
			return false
		}
		code := 0
		for _, c := range s.b[s.at+2 : s.at+6] {
			digit, ok := hexValue(c)
			if !ok {
				return false
			}
			code = code<<4 | int(digit)
		}
		s.at += 6
		return code < 0xd800 || code > 0xdfff
	}
	return false
}

// bare reads a number or a literal.
func (s *scanner) bare() (text []byte, ok bool) {
	start := s.at
	for s.at < len(s.b) {
		c := s.b[s.at]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '+' && c != '.' && c != 'E' {
			break
		}
		s.at++
	}
	text = s.b[start:s.at]
	switch string(text) {
	case "true", "false", "null":
		return text, true
	}
	return text, isNumber(text)
}

func isNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && b[n] >= '0' && b[n] <= '9' {
			n++
		}
		b = b[n:]
		return n > 0
	}
	skip := func(set string) bool {
		if len(b) == 0 || strings.IndexByte(set, b[0]) < 0 {
			return false
		}
		b = b[1:]
		return true
	}
	skip("-")
	if !skip("0") && !digits() {
		return false
	}
	if skip(".") && !digits() {
		return false
	}
	if skip("eE") {
		skip("+-")
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}
