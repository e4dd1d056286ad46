package cesql

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/taskwire/taskwire/internal/event"
)

// function is one of those that the specification names. The last optional
// parameters may be left out; the last one may be given again and again if it is
// variadic.
type function struct {
	id       functionID
	params   []Type
	optional int
	variadic bool
}

type functionID uint8

const (
	fnInt functionID = iota
	fnBool
	fnString
	fnAbs
	fnLength
	fnConcat
	fnConcatWS
	fnLower
	fnUpper
	fnTrim
	fnLeft
	fnRight
	fnSubstring
)

var functions = map[string]*function{
	"INT":       {id: fnInt, params: []Type{Integer}},
	"BOOL":      {id: fnBool, params: []Type{Boolean}},
	"STRING":    {id: fnString, params: []Type{String}},
	"ABS":       {id: fnAbs, params: []Type{Integer}},
	"LENGTH":    {id: fnLength, params: []Type{String}},
	"CONCAT":    {id: fnConcat, params: []Type{String}, optional: 1, variadic: true},
	"CONCAT_WS": {id: fnConcatWS, params: []Type{String, String}, optional: 1, variadic: true},
	"LOWER":     {id: fnLower, params: []Type{String}},
	"UPPER":     {id: fnUpper, params: []Type{String}},
	"TRIM":      {id: fnTrim, params: []Type{String}},
	"LEFT":      {id: fnLeft, params: []Type{String, Integer}},
	"RIGHT":     {id: fnRight, params: []Type{String, Integer}},
	"SUBSTRING": {id: fnSubstring, params: []Type{String, Integer, Integer}, optional: 1},
}

// yields is the type of the result.
func (f *function) yields() Type {
	switch f.id {
	case fnBool:
		return Boolean
	case fnInt, fnAbs, fnLength:
		return Integer
	}
	return String
}

func (n *node) call(e *event.Event) (Value, *Error) {
	f := n.function
	var few [3]Value // all but the variadic ones
	args := few[:0]
	for i := range n.args {
		v, err := n.arg(e, i, f.params[min(i, len(f.params)-1)])
		if err != nil {
			return Value{typ: f.yields()}, err
		}
		args = append(args, v)
	}
	switch f.id {
	case fnInt, fnBool, fnString:
		return args[0], nil
	case fnAbs:
		return n.abs(args[0].number)
	case fnLength:
		return OfInt(int32(utf8.RuneCountInString(args[0].text))), nil
	case fnConcat:
		return join("", args), nil
	case fnConcatWS:
		return join(args[0].text, args[1:]), nil
	case fnLower:
		return OfString(strings.ToLower(args[0].text)), nil
	case fnUpper:
		return OfString(strings.ToUpper(args[0].text)), nil
	case fnTrim:
		return OfString(strings.TrimSpace(args[0].text)), nil
	case fnLeft, fnRight:
		return n.side(args[0].text, int(args[1].number))
	}
	return n.substring(args)
}

func (n *node) abs(i int32) (Value, *Error) {
	switch {
	case i == math.MinInt32:
		return OfInt(math.MaxInt32), n.fail(MathError, "the result is no Integer, which has 32 bits")
	case i < 0:
		return OfInt(-i), nil
	}
	return OfInt(i), nil
}

func join(delimiter string, values []Value) Value {
	size := 0
	for _, v := range values {
		size += len(v.text) + len(delimiter)
	}
	var b strings.Builder
	b.Grow(size)
	for i, v := range values {
		if i > 0 {
			b.WriteString(delimiter)
		}
		b.WriteString(v.text)
	}
	return OfString(b.String())
}

// side is LEFT and RIGHT.
func (n *node) side(text string, length int) (Value, *Error) {
	if length < 0 {
		return OfString(text), n.fail(FunctionEvaluationError, "a negative length")
	}
	if n.function.id == fnLeft {
		return OfString(text[:offset(text, length)]), nil
	}
	return OfString(text[offset(text, utf8.RuneCountInString(text)-length):]), nil
}

func (n *node) substring(args []Value) (Value, *Error) {
	text, position := args[0].text, int(args[1].number)
	all := utf8.RuneCountInString(text)
	length := all
	if len(args) > 2 {
		length = int(args[2].number)
	}
	switch {
	case length < 0:
		return OfString(""), n.fail(FunctionEvaluationError, "a negative length")
	case position > all || position < -all:
		return OfString(""), n.fail(FunctionEvaluationError, "a position outside the text")
	case position == 0:
		return OfString(""), nil
	case position < 0:
		position += all + 1
	}
	text = text[offset(text, position-1):]
	return OfString(text[:offset(text, length)]), nil
}

// offset is where the character with this index, counted from 0, begins in text.
func offset(text string, index int) int {
	if index <= 0 {
		return 0
	}
	for at := range text {
		if index == 0 {
			return at
		}
		index--
	}
	return len(text)
}

// shown is a value in an error, of bounded length.
func shown(v Value) string {
	text := v.String()
	if v.typ != String {
		return text
	}
	const most = 40
	if cut := offset(text, most); cut < len(text) {
		text = text[:cut] + "..."
	}
	return strconv.Quote(text)
}
