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

// record is a complete line, split into the raw JSON of its members. The slices
// share the line's memory.
type record struct {
	seq          int64
	content      []byte
	id, source   []byte
	typ, when    []byte
	data, base64 []byte
	dataAt       int // where data begins in the line
	correlation  []byte
	attributes   []byte // the members, without the braces
	subject      []byte
	version      []byte
	actor        []byte
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
		r.dataAt = s.pos
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
		case `"` + attrActor + `"`:
			r.actor = value
		}
	}
	r.attributes = s.b[from:s.pos]
	s.lit(`}`)
}

// task returns the encoded task id, empty when the entry is about none, as render does.
func (r *record) task() []byte {
	if len(r.subject) > 2 && r.subject[0] == '"' {
		return r.subject
	}
	if len(r.data) == 0 {
		return nil
	}
	if s := (Entry{Data: r.data}).TaskID(); s != "" {
		return appendString(nil, s)
	}
	return nil
}

// taskVersion is the task's version after the event, if the event has one.
func (r *record) taskVersion() (int64, bool) {
	if len(r.version) == 0 {
		return 0, false
	}
	version, err := strconv.ParseInt(string(r.version), 10, 64)
	return version, err == nil
}

// ParseLine rebuilds the entry from its line; a line feed at the end is allowed.
// The error is a *LineError with the position of the mistake.
func ParseLine(line []byte) (Entry, error) {
	r, err := readRecord(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		return Entry{}, err
	}
	return r.entry()
}

// ParseHead is ParseLine without the data, for a caller that copies it from the
// log: it is the JSON at line[from:to], nothing when the entry has none.
func ParseHead(line []byte) (e Entry, from, to int, err error) {
	r, err := readRecord(line)
	if err != nil {
		return Entry{}, 0, 0, err
	}
	from, to = r.dataAt, r.dataAt+len(r.data)
	r.data, r.base64 = nil, nil
	e, err = r.entry()
	return e, from, to, err
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
		return nil, fmt.Errorf("attribute value %q is not a string, integer or boolean", raw)
	}
	return n, nil
}

func unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", fmt.Errorf("%q is not a string", raw)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}
