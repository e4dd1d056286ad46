package cesql

import (
	"math"

	"github.com/taskwire/taskwire/internal/event"
)

// node is an operator with its operands. It is one type for all, and not an
// interface, so that the compiler sees that no event escapes to the heap.
type node struct {
	op       op
	negated  bool // NOT LIKE, NOT IN
	value    Value
	name     string // of the attribute
	missing  *Error // what it is when the event lacks it
	pattern  *pattern
	function *function
	args     []*node

	source string // the whole expression, and
	at     int    // where n stands in it: for errors
}

type op uint8

const (
	opLiteral op = iota
	opAttribute
	opExists
	opFunction
	opNot
	opNegate
	opAnd
	opOr
	opXor
	opEqual
	opUnequal
	opLess
	opAtMost
	opGreater
	opAtLeast
	opPlus
	opMinus
	opTimes
	opDivide
	opModulo
	opIn
	opLike
)

// eval returns the value of n. With an error it is what the specification wants
// besides: where that says nothing, the zero value of n's type.
func (n *node) eval(e *event.Event) (Value, *Error) {
	switch n.op {
	case opLiteral:
		return n.value, nil
	case opAttribute:
		return n.attribute(e)
	case opExists:
		_, ok := event.Attribute(*e, n.name)
		return OfBool(ok), nil
	case opFunction:
		return n.call(e)
	case opNot:
		return n.not(e)
	case opAnd, opOr, opXor:
		return n.logic(e)
	case opEqual, opUnequal:
		return n.equal(e)
	case opLess, opAtMost, opGreater, opAtLeast:
		return n.compare(e)
	case opIn:
		return n.in(e)
	case opLike:
		text, err := n.arg(e, 0, String)
		return OfBool(err == nil && n.pattern.match(text.text) != n.negated), err
	}
	return n.compute(e)
}

// attribute has the type that the event gives it; those which the language does
// not know are text.
func (n *node) attribute(e *event.Event) (Value, *Error) {
	if v, ok := event.Extension(*e, n.name); ok {
		switch v := v.(type) {
		case string:
			return OfString(v), nil
		case bool:
			return OfBool(v), nil
		case int32:
			return OfInt(v), nil
		}
	}
	text, ok := event.Attribute(*e, n.name)
	if !ok {
		return OfBool(false), n.missing
	}
	return OfString(text), nil
}

func (n *node) fail(kind Kind, text string) *Error {
	return (&Error{Kind: kind, at: n.at, text: text}).in(n.source)
}

// arg returns an operand as a value of type t.
func (n *node) arg(e *event.Event, i int, t Type) (Value, *Error) {
	v, err := n.args[i].eval(e)
	if err != nil {
		return Value{typ: t}, err
	}
	return n.args[i].cast(v, t)
}

// cast is for a value of n. The error shows it: it comes from an event, or from a
// literal of the configuration that is shown anyway.
func (n *node) cast(v Value, t Type) (Value, *Error) {
	v2, ok := v.cast(t)
	if !ok {
		return v2, n.fail(CastError, shown(v)+" is not "+article(t))
	}
	return v2, nil
}

// not casts no Integer: the conformance cases want an error there.
func (n *node) not(e *event.Event) (Value, *Error) {
	v, err := n.args[0].eval(e)
	if err != nil {
		return OfBool(false), err
	}
	if v.typ == Integer {
		return OfBool(true), n.args[0].fail(CastError, "NOT takes no Integer, and this is "+v.String()+"; see BOOL")
	}
	v, err = n.args[0].cast(v, Boolean)
	return OfBool(!v.bool()), err
}

func (n *node) logic(e *event.Event) (Value, *Error) {
	left, err := n.arg(e, 0, Boolean)
	if err != nil {
		return OfBool(false), err
	}
	if n.op == opAnd && !left.bool() || n.op == opOr && left.bool() {
		return left, nil
	}
	right, err := n.arg(e, 1, Boolean)
	if err != nil {
		return OfBool(false), err
	}
	return OfBool(right.bool() != (n.op == opXor && left.bool())), nil
}

// equal compares in the type of the right operand.
func (n *node) equal(e *event.Event) (Value, *Error) {
	left, err := n.args[0].eval(e)
	if err != nil {
		return OfBool(false), err
	}
	right, err := n.args[1].eval(e)
	if err != nil {
		return OfBool(false), err
	}
	left, err = n.args[0].cast(left, right.typ)
	if err != nil {
		return OfBool(false), err
	}
	return OfBool((left == right) == (n.op == opEqual)), nil
}

// in compares in the type of the left operand, until one is equal.
func (n *node) in(e *event.Event) (Value, *Error) {
	left, err := n.args[0].eval(e)
	if err != nil {
		return OfBool(false), err
	}
	for i := range n.args[1:] {
		element, err := n.arg(e, i+1, left.typ)
		if err != nil {
			return OfBool(false), err
		}
		if left == element {
			return OfBool(!n.negated), nil
		}
	}
	return OfBool(n.negated), nil
}

func (n *node) integers(e *event.Event) (x, y int64, err *Error) {
	left, err := n.arg(e, 0, Integer)
	if err != nil {
		return 0, 0, err
	}
	right, err := n.arg(e, 1, Integer)
	return int64(left.number), int64(right.number), err
}

func (n *node) compare(e *event.Event) (Value, *Error) {
	x, y, err := n.integers(e)
	if err != nil {
		return OfBool(false), err
	}
	switch n.op {
	case opLess:
		return OfBool(x < y), nil
	case opAtMost:
		return OfBool(x <= y), nil
	case opGreater:
		return OfBool(x > y), nil
	}
	return OfBool(x >= y), nil
}

// compute does the arithmetic.
func (n *node) compute(e *event.Event) (Value, *Error) {
	var x, y int64
	var err *Error
	if n.op == opNegate {
		var v Value
		v, err = n.arg(e, 0, Integer)
		y = int64(v.number)
	} else {
		x, y, err = n.integers(e)
	}
	if err != nil {
		return OfInt(0), err
	}
	switch n.op {
	case opPlus:
		x += y
	case opMinus, opNegate:
		x -= y
	case opTimes:
		x *= y
	case opDivide, opModulo:
		if y == 0 {
			return OfInt(0), n.fail(MathError, "a division by zero")
		}
		if n.op == opDivide {
			x /= y
		} else {
			x %= y
		}
	}
	if x < math.MinInt32 || x > math.MaxInt32 {
		return OfInt(0), n.fail(MathError, "the result is no Integer, which has 32 bits")
	}
	return OfInt(int32(x)), nil
}
