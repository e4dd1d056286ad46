package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Names of the context attributes that have a place of their own in a line.
const (
	attrCorrelation = "correlationid"
	attrSubject     = "subject"
	attrTaskVersion = "taskversion"
)

// stampLayout has a fixed width: the end of a line can be cut off without
// parsing it.
const stampLayout = "2006-01-02T15:04:05.000000Z"

// An Entry is one event and its place in the log.
type Entry struct {
	Seq       int64     // 1, 2, 3 ... without gap; given by Append
	AuditedAt time.Time // when the batch that holds it was written; given by Append

	ID     string
	Source string
	Type   string
	Time   string // RFC 3339, or "" for an event without a time

	// Attributes are all other context attributes, in any order.
	Attributes []Attribute

	// Data is nil for an event without data. It is stored byte for byte, with
	// the one exception that LineData describes.
	Data []byte

	// Base64 keeps Data as data_base64. The caller sets it when the content type
	// is not JSON. Append does the same with data that no line can carry as JSON.
	Base64 bool
}

// An Attribute is a context attribute. Value is a string, a bool or an int64.
type Attribute struct {
	Name  string
	Value any
}

// Attribute returns the value of the named attribute, nil when there is none.
func (e Entry) Attribute(name string) any {
	for _, a := range e.Attributes {
		if a.Name == name {
			return a.Value
		}
	}
	return nil
}

// TaskID is the subject, or the task_id of the data for an event without one.
func (e Entry) TaskID() string {
	if s, _ := e.Attribute(attrSubject).(string); s != "" {
		return s
	}
	var d struct {
		TaskID string `json:"task_id"`
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return ""
	}
	return d.TaskID
}

// TaskVersion is the version of the task that the event made.
func (e Entry) TaskVersion() (int64, bool) {
	v, ok := e.Attribute(attrTaskVersion).(int64)
	return v, ok
}

// LineData is how data stands in a line. JSON stays as it is, except that white
// space around the value goes and that each line feed and carriage return
// becomes a space. In JSON both occur between tokens only (inside a string they
// are escaped), so that the value's meaning, the order and spelling of its
// members and its length do not change, and a line stays a line. Anything else
// is kept exactly, as data_base64. Whether data is meant to be JSON is not asked
// here but by the caller, see Entry.Base64.
func LineData(data []byte) (out []byte, isJSON bool) {
	v := bytes.Trim(data, " \t\r\n")
	if !utf8.Valid(v) || !validJSON(v) {
		return data, false
	}
	if bytes.IndexByte(v, '\n') < 0 && bytes.IndexByte(v, '\r') < 0 {
		return v, true
	}
	v = bytes.Clone(v)
	for i, c := range v {
		if c == '\n' || c == '\r' {
			v[i] = ' '
		}
	}
	return v, true
}

// rendered is an entry on its way into the log: the middle of its line, without
// seq and audited_at, which the writer adds. Equal events render to equal
// bytes, so that content is compared without parsing.
type rendered struct {
	content []byte
	key     key
	task    string // encoded task id, "" when the event has no version
	version int64
}

// A key tells events apart: source and id as they are encoded in a line. The
// quotes keep the two from running into each other.
type key struct{ source, id string }

// render encodes the entry or says which attribute cannot be stored.
func render(e Entry) (rendered, error) {
	attrs := e.Attributes
	byName := func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(attrs, byName) {
		attrs = slices.Clone(attrs) // the caller's order is the caller's
		slices.SortFunc(attrs, byName)
	}
	if err := e.check(attrs); err != nil {
		return rendered{}, err
	}
	var r rendered
	b := make([]byte, 0, 512+len(e.Data))
	b = append(b, `"event_id":`...)
	from := len(b)
	b = appendString(b, e.ID)
	r.key.id = string(b[from:])
	b = append(b, `,"event_type":`...)
	b = appendString(b, e.Type)
	b = append(b, `,"occurred_at":`...)
	b = appendStringOrNull(b, e.Time)
	b = appendData(b, e)
	b = append(b, `,"metadata":{"correlation_id":`...)
	b = appendScalar(b, e.Attribute(attrCorrelation))
	b = append(b, `,"source":`...)
	from = len(b)
	b = appendString(b, e.Source)
	r.key.source = string(b[from:])
	b = append(b, `},"attributes":{`...)
	first := true
	for _, a := range attrs {
		if a.Name == attrCorrelation {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, a.Name)
		b = append(b, ':')
		b = appendScalar(b, a.Value)
	}
	r.content = append(b, '}')
	if len(r.content) > maxLine-128 {
		return rendered{}, &InvalidError{Reason: fmt.Sprintf("longer than %d bytes", maxLine)}
	}
	if v, ok := e.TaskVersion(); ok {
		if id := e.TaskID(); id != "" {
			r.task, r.version = string(appendString(nil, id)), v
		}
	}
	return r, nil
}

// check refuses what could not be read back as it was given. The attributes are
// sorted by name.
func (e Entry) check(attrs []Attribute) error {
	for _, f := range [...]struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if f.value == "" {
			return &InvalidError{Attribute: f.name, Reason: "empty"}
		}
		if !utf8.ValidString(f.value) {
			return &InvalidError{Attribute: f.name, Reason: "not UTF-8"}
		}
	}
	if !utf8.ValidString(e.Time) {
		return &InvalidError{Attribute: "time", Reason: "not UTF-8"}
	}
	for i, a := range attrs {
		if a.Name == "" || !utf8.ValidString(a.Name) || i > 0 && attrs[i-1].Name == a.Name {
			return &InvalidError{Attribute: a.Name, Reason: "empty, repeated or not a name"}
		}
		switch v := a.Value.(type) {
		case bool, int64:
		case string:
			if !utf8.ValidString(v) {
				return &InvalidError{Attribute: a.Name, Reason: "not UTF-8"}
			}
		default:
			return &InvalidError{Attribute: a.Name, Reason: fmt.Sprintf("has the type %T", v)}
		}
	}
	return nil
}

func appendData(b []byte, e Entry) []byte {
	if e.Data == nil {
		return b
	}
	data, isJSON := e.Data, false
	if !e.Base64 {
		data, isJSON = LineData(e.Data)
	}
	if isJSON {
		b = append(b, `,"data":`...)
		return append(b, data...)
	}
	b = append(b, `,"data_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, data)
	return append(b, '"')
}

// appendLine adds the finished line. The writer owns seq and stamp.
func appendLine(b []byte, seq int64, content []byte, stamp time.Time) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, ',')
	b = append(b, content...)
	b = append(b, `,"audited_at":"`...)
	b = stamp.UTC().AppendFormat(b, stampLayout)
	return append(b, "\"}\n"...)
}

// appendString escapes what JSON demands and, so that a line is safe to print
// on a terminal, every other control character and the two Unicode line ends.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i, r := range s {
		if r >= 0x20 && r < 0x7f && r != '"' && r != '\\' || r >= 0xa0 && r != '\u2028' && r != '\u2029' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + utf8.RuneLen(r)
		if r == '"' || r == '\\' {
			b = append(b, '\\', byte(r))
			continue
		}
		b = fmt.Appendf(b, `\u%04x`, r)
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

func appendScalar(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendString(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	}
	return append(b, "null"...)
}

// record is a line that was found whole, with the raw JSON of what the index
// needs. Its slices share the line's memory.
type record struct {
	seq          int64
	content      []byte
	id, source   []byte
	typ, when    []byte
	data, base64 []byte
	correlation  []byte
	attributes   []byte // the members, without the braces
	subject      []byte
	version      []byte
	stamp        []byte
}

// readRecord reads a line without its line feed. The error is a *LineError.
func readRecord(line []byte) (record, error) {
	var r record
	s := &scanner{b: line}
	s.lit(`{"seq":`)
	r.seq = s.positive()
	s.lit(`,`)
	from := s.pos
	s.lit(`"event_id":`)
	r.id = s.str()
	s.lit(`,"event_type":`)
	r.typ = s.str()
	s.lit(`,"occurred_at":`)
	r.when = s.stringOrNull()
	switch {
	case s.peek(`,"data":`):
		s.lit(`,"data":`)
		r.data = s.value()
	case s.peek(`,"data_base64":`):
		s.lit(`,"data_base64":`)
		r.base64 = s.str()
	}
	s.lit(`,"metadata":{"correlation_id":`)
	r.correlation = s.scalar()
	s.lit(`,"source":`)
	r.source = s.str()
	s.lit(`},"attributes":{`)
	r.readAttributes(s)
	if s.err == nil {
		r.content = line[from:s.pos]
	}
	s.lit(`,"audited_at":`)
	r.stamp = s.str()
	s.lit(`}`)
	if s.err == nil && s.pos != len(line) {
		s.fail("end of line expected")
	}
	if s.err == nil && len(r.stamp) != len(stampLayout)+2 {
		s.fail("time of %d characters expected", len(stampLayout))
	}
	if s.err == nil && !utf8.Valid(line) {
		s.pos = firstInvalid(line)
		s.fail("not UTF-8")
	}
	if s.err != nil {
		return record{}, &LineError{Byte: s.pos, Reason: s.err.Error()}
	}
	return r, nil
}

func firstInvalid(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return len(b)
}

func (r *record) readAttributes(s *scanner) {
	from := s.pos
	for s.err == nil && !s.peek(`}`) {
		if s.pos > from {
			s.lit(`,`)
		}
		name := s.str()
		s.lit(`:`)
		value := s.scalar()
		switch string(name) {
		case `"` + attrSubject + `"`:
			r.subject = value
		case `"` + attrTaskVersion + `"`:
			r.version = value
		}
	}
	r.attributes = s.b[from:s.pos]
	s.lit(`}`)
}

// task is the encoded task id and the version, as render gives them.
func (r *record) task() (id []byte, version int64, ok bool) {
	if len(r.version) == 0 {
		return nil, 0, false
	}
	version, err := strconv.ParseInt(string(r.version), 10, 64)
	if err != nil {
		return nil, 0, false
	}
	if len(r.subject) > 2 && r.subject[0] == '"' {
		return r.subject, version, true
	}
	if len(r.data) == 0 {
		return nil, 0, false
	}
	s := Entry{Data: r.data}.TaskID()
	if s == "" {
		return nil, 0, false
	}
	return appendString(nil, s), version, true
}

// ParseLine rebuilds the entry from its line; a line feed at the end is
// allowed. The error is a *LineError with the position of the mistake.
func ParseLine(line []byte) (Entry, error) {
	r, err := readRecord(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		return Entry{}, err
	}
	return r.entry()
}

func (r *record) entry() (Entry, error) {
	e := Entry{Seq: r.seq}
	var err error
	str := func(raw []byte, what string) string {
		s, uerr := unquote(raw)
		if uerr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", what, uerr))
		}
		return s
	}
	e.ID, e.Type, e.Source = str(r.id, "event_id"), str(r.typ, "event_type"), str(r.source, "source")
	if string(r.when) != "null" {
		e.Time = str(r.when, "occurred_at")
	}
	stamp, serr := time.Parse(stampLayout, str(r.stamp, "audited_at"))
	e.AuditedAt = stamp
	err = errors.Join(err, serr)
	switch {
	case r.base64 != nil:
		data, derr := base64.StdEncoding.DecodeString(str(r.base64, "data_base64"))
		e.Data, e.Base64, err = append([]byte{}, data...), true, errors.Join(err, derr)
	case r.data != nil:
		e.Data = bytes.Clone(r.data)
	}
	e.Attributes, err = r.entryAttributes(err)
	if err != nil {
		return Entry{}, &LineError{Reason: err.Error()}
	}
	return e, nil
}

func (r *record) entryAttributes(err error) ([]Attribute, error) {
	var attrs []Attribute
	if string(r.correlation) != "null" {
		v, verr := scalarValue(r.correlation)
		attrs, err = append(attrs, Attribute{attrCorrelation, v}), errors.Join(err, verr)
	}
	s := &scanner{b: r.attributes}
	for s.pos < len(s.b) && s.err == nil {
		if s.pos > 0 {
			s.lit(`,`)
		}
		name, nerr := unquote(s.str())
		s.lit(`:`)
		v, verr := scalarValue(s.scalar())
		attrs, err = append(attrs, Attribute{name, v}), errors.Join(err, nerr, verr)
	}
	slices.SortFunc(attrs, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	return attrs, errors.Join(err, s.err)
}

func scalarValue(raw []byte) (any, error) {
	switch {
	case len(raw) > 0 && raw[0] == '"':
		return unquote(raw)
	case string(raw) == "true":
		return true, nil
	case string(raw) == "false":
		return false, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("attribute value %q is no string, integer or boolean", raw)
	}
	return n, nil
}

func unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", fmt.Errorf("%q is no string", raw)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}
