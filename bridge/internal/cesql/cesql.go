// Package cesql evaluates the CloudEvents SQL expression language, version 1.0,
// on the attributes of events.
//
// It fails fast, as the specification advises for filters: the first error ends
// the evaluation, and the value beside it is the one that the conformance cases
// in testdata want. Where those cases and the text of the specification differ,
// which is in NOT of an Integer, the cases hold. Where text and grammar differ,
// which is in the grouping of AND, OR and XOR without parentheses, the text does:
// from left to right.
//
// An expression is trusted, events are not. The time of an evaluation is bounded
// by the lengths of expression and attributes multiplied, and no event can make
// it worse: LIKE does not try one possibility after the other.
package cesql

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/taskwire/taskwire/internal/event"
)

const (
	longest = 8 << 10 // bytes of an expression
	deepest = 64      // parentheses, functions, NOT and minus within each other
)

// Expression is a parsed expression. Several goroutines may evaluate it.
type Expression struct{ root *node }

// Parse reads an expression. Its error is an *Error.
func Parse(text string) (*Expression, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err.in(text)
	}
	return &Expression{root}, nil
}

// Eval returns the value of x for e. Its error is an *Error, and then the value is
// what x has in spite of it, False more often than not: nothing that should let an
// event pass.
func (x *Expression) Eval(e event.Event) (Value, error) {
	v, err := x.root.eval(&e)
	if err != nil {
		return v, err
	}
	return v, nil
}

// Kind is the specification's name for a class of errors.
type Kind string

// The kinds of errors.
const (
	ParseError              Kind = "parse"
	MathError               Kind = "math"
	CastError               Kind = "cast"
	MissingAttributeError   Kind = "missingAttribute"
	MissingFunctionError    Kind = "missingFunction" // found by Parse
	FunctionEvaluationError Kind = "functionEvaluation"
)

// Error is a mistake in an expression, or what keeps it from having a value for an event.
type Error struct {
	Kind  Kind
	Place string // "character 12"
	text  string
	at    int // byte; Place follows from it
}

func (e *Error) Error() string { return e.Place + ": " + e.text }

func parseError(at int, text string) *Error { return &Error{Kind: ParseError, at: at, text: text} }

// in sets the place in the text of the expression.
func (e *Error) in(text string) *Error {
	e.Place = place(text, e.at)
	return e
}

// place counts characters from 1, and lines when there are several.
func place(text string, at int) string {
	before := text[:at]
	line := strings.Count(before, "\n") + 1
	character := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	if !strings.Contains(strings.TrimSpace(text), "\n") {
		return fmt.Sprintf("character %d", character)
	}
	return fmt.Sprintf("line %d, character %d", line, character)
}
