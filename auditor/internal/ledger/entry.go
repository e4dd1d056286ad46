package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// Names of the context attributes that the line or the index treats separately.
const (
	attrCorrelation = "correlationid"
	attrSubject     = "subject"
	attrTaskVersion = "taskversion"
	attrActor       = "actor"
)

// An Entry is one event and its place in the log.
type Entry struct {
	Seq       int64     // 1, 2, 3 ... without gap; given by Append
	AuditedAt time.Time // when its batch was written; given by Append

	ID     string
	Source string
	Type   string
	Time   string // RFC 3339, or "" for an event without a time

	// Attributes are all other context attributes, in any order.
	Attributes []Attribute

	// Data is nil for an event without data. It is stored byte for byte, with the
	// exception that LineData describes.
	Data []byte

	// Base64 stores Data as data_base64. The caller sets it when the content type
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

// TaskVersion is the task's version after the event, if the event has one.
func (e Entry) TaskVersion() (int64, bool) {
	v, ok := e.Attribute(attrTaskVersion).(int64)
	return v, ok
}

// LineData is data as a line stores it. JSON stays as it is, except that white
// space around the value is removed and each line feed and carriage return
// becomes a space. In JSON both occur between tokens only (inside a string they
// are escaped), so the value's meaning, the order and spelling of its members
// and its length do not change, and a line stays a line. Anything else is stored
// exactly, as data_base64. Whether data is meant to be JSON is for the caller to
// know, see Entry.Base64.
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

// check refuses what could not be read back unchanged. The attributes are sorted
// by name.
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
			return &InvalidError{Attribute: a.Name, Reason: "empty, repeated or not UTF-8"}
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
