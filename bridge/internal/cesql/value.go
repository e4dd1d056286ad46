package cesql

import (
	"strconv"
	"strings"
)

// Type is one of the language's three.
type Type uint8

// The types; Boolean is what an expression has that could be any.
const (
	Boolean Type = iota
	Integer
	String
)

func (t Type) String() string { return [...]string{"Boolean", "Integer", "String"}[t] }

// article is t in a sentence.
func article(t Type) string {
	if t == Integer {
		return "an Integer"
	}
	return "a " + t.String()
}

// Value is a value of the language. Two are equal if they have one type and one content.
type Value struct {
	typ    Type
	number int32 // of an Integer; 1 is the Boolean true
	text   string
}

// True is what lets an event pass.
var True = OfBool(true)

// OfString returns a String.
func OfString(s string) Value { return Value{typ: String, text: s} }

// OfInt returns an Integer.
func OfInt(n int32) Value { return Value{typ: Integer, number: n} }

// OfBool returns a Boolean.
func OfBool(b bool) Value {
	if b {
		return Value{number: 1}
	}
	return Value{}
}

// Type returns the type of v.
func (v Value) Type() Type { return v.typ }

func (v Value) bool() bool { return v.number != 0 }

// String returns v cast to the type String.
func (v Value) String() string {
	switch v.typ {
	case Integer:
		return strconv.FormatInt(int64(v.number), 10)
	case Boolean:
		return strconv.FormatBool(v.bool())
	}
	return v.text
}

// cast returns v as a value of type t, which is t's zero value if there is none.
func (v Value) cast(t Type) (Value, bool) {
	switch {
	case v.typ == t:
		return v, true
	case t == String:
		return OfString(v.String()), true
	case v.typ != String:
		if t == Boolean {
			return OfBool(v.bool()), true
		}
		return OfInt(v.number), true
	case t == Integer:
		n, err := strconv.ParseInt(v.text, 10, 32)
		if err != nil {
			return OfInt(0), false
		}
		return OfInt(int32(n)), true
	}
	isTrue, isFalse := isWord(v.text, "true"), isWord(v.text, "false")
	return OfBool(isTrue), isTrue || isFalse
}

// isWord reports whether the lower case of text is word.
func isWord(text, word string) bool { return len(text) == len(word) && strings.ToLower(text) == word }
