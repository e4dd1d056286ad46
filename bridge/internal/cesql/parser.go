package cesql

import (
	"strconv"
	"strings"
)

// parser is a precedence climber over the tokens of text.
type parser struct {
	text  string
	token token // the one to look at
	depth int
}

// The binding strengths of what stands behind an operand. Unary operators and
// functions bind tighter than any.
const (
	bindsNot = iota // not an operator
	bindsLogic
	bindsComparison
	bindsSum
	bindsProduct
	bindsIn
	bindsLike
)

func parse(text string) (*node, *Error) {
	if len(text) > longest {
		return nil, parseError(0, "the expression is longer than "+strconv.Itoa(longest)+" bytes")
	}
	p := parser{text: text}
	if err := p.advance(); err != nil {
		return nil, err
	}
	root, err := p.expression(bindsLogic)
	if err != nil {
		return nil, err
	}
	if p.token.kind != tokenEnd {
		return nil, p.unexpected("an operator or the end")
	}
	return root, nil
}

func (p *parser) advance() (err *Error) {
	p.token, err = next(p.text, p.token.at+len(p.token.text))
	return err
}

// unexpected repeats no names, numbers and texts: in the wrong place they may be
// anything, a password of the configuration file too.
func (p *parser) unexpected(want string) *Error {
	have := strconv.Quote(p.token.text)
	switch {
	case p.token.kind == tokenEnd:
		have = "the end"
	case p.token.kind == tokenString:
		have = "a text in quotes"
	case p.token.kind == tokenDigits:
		have = "a number"
	case p.token.kind == tokenName && !reserved(p.token):
		have = "a name"
	}
	return parseError(p.token.at, "want "+want+", have "+have)
}

// skip passes over a symbol.
func (p *parser) skip(symbol string) *Error {
	if !p.token.is(symbol) {
		return p.unexpected(strconv.Quote(symbol))
	}
	return p.advance()
}

// expression reads an operand and what binds it at least as tight as weakest.
// Equal operators group from left to right.
func (p *parser) expression(weakest int) (*node, *Error) {
	left, err := p.operand()
	for err == nil {
		op, strength := infix(p.token)
		if strength < weakest || strength == bindsNot {
			return left, nil
		}
		n := &node{op: op, at: p.token.at, source: p.text, args: []*node{left}}
		if err = p.advance(); err != nil {
			break
		}
		if op == opNot {
			if op, strength = infix(p.token); op != opIn && op != opLike {
				return nil, p.unexpected("LIKE or IN")
			}
			n.op, n.negated = op, true
			if err = p.advance(); err != nil {
				break
			}
		}
		err = p.right(n, strength)
		left = n
	}
	return nil, err
}

func infix(t token) (op, int) {
	if t.kind != tokenName && t.kind != tokenSymbol {
		return 0, bindsNot
	}
	switch strings.ToUpper(t.text) {
	case "AND":
		return opAnd, bindsLogic
	case "OR":
		return opOr, bindsLogic
	case "XOR":
		return opXor, bindsLogic
	case "=":
		return opEqual, bindsComparison
	case "!=", "<>":
		return opUnequal, bindsComparison
	case "<":
		return opLess, bindsComparison
	case "<=":
		return opAtMost, bindsComparison
	case ">":
		return opGreater, bindsComparison
	case ">=":
		return opAtLeast, bindsComparison
	case "+":
		return opPlus, bindsSum
	case "-":
		return opMinus, bindsSum
	case "*":
		return opTimes, bindsProduct
	case "/":
		return opDivide, bindsProduct
	case "%":
		return opModulo, bindsProduct
	case "IN":
		return opIn, bindsIn
	case "LIKE":
		return opLike, bindsLike
	case "NOT": // NOT LIKE, NOT IN
		return opNot, bindsIn
	}
	return 0, bindsNot
}

// right completes n with what stands to the right of its operator.
func (p *parser) right(n *node, strength int) *Error {
	switch n.op {
	case opLike:
		if p.token.kind != tokenString {
			return p.unexpected("a pattern in quotes")
		}
		n.pattern = newPattern(unquoted(p.token.text))
		return p.advance()
	case opIn:
		if err := p.skip("("); err != nil {
			return err
		}
		return p.list(n)
	}
	right, err := p.expression(strength + 1)
	n.args = append(n.args, right)
	return err
}

// list appends the expressions up to the closing parenthesis to n's arguments.
func (p *parser) list(n *node) *Error {
	for {
		arg, err := p.expression(bindsLogic)
		if err != nil {
			return err
		}
		n.args = append(n.args, arg)
		if !p.token.is(",") {
			return p.skip(")")
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
}

// operand reads a literal, an attribute, a function, something in parentheses, or
// a unary operator with its operand.
func (p *parser) operand() (*node, *Error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > deepest {
		return nil, parseError(p.token.at, "more than "+strconv.Itoa(deepest)+" levels within each other")
	}
	t := p.token
	n := &node{at: t.at, source: p.text}
	switch {
	case t.kind == tokenString:
		n.value = OfString(unquoted(t.text))
		return n, p.advance()
	case t.kind == tokenDigits:
		return p.integer(n, "")
	case t.kind == tokenName:
		return p.name(n)
	case t.kind == tokenEnd || !strings.Contains("(+-", t.text):
		return nil, p.unexpected("a value")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	switch {
	case t.is("("):
		inner, err := p.expression(bindsLogic)
		if err != nil {
			return nil, err
		}
		return inner, p.skip(")")
	case p.token.kind == tokenDigits:
		return p.integer(n, t.text)
	case t.is("+"):
		return nil, p.unexpected("a number")
	}
	return p.unary(n, opNegate)
}

func (p *parser) unary(n *node, op op) (*node, *Error) {
	operand, err := p.operand()
	n.op, n.args = op, []*node{operand}
	return n, err
}

func (p *parser) integer(n *node, sign string) (*node, *Error) {
	i, err := strconv.ParseInt(sign+p.token.text, 10, 32)
	if err != nil {
		return nil, parseError(n.at, "the number is outside -2147483648 to 2147483647")
	}
	n.value = OfInt(int32(i))
	return n, p.advance()
}

func (p *parser) name(n *node) (*node, *Error) {
	t := p.token
	if err := p.advance(); err != nil {
		return nil, err
	}
	switch {
	case t.is("TRUE") || t.is("FALSE"):
		n.value = OfBool(t.is("TRUE"))
		return n, nil
	case t.is("NOT"):
		return p.unary(n, opNot)
	case t.is("EXISTS"):
		name := p.token
		if name.kind != tokenName || reserved(name) {
			return nil, p.unexpected("an attribute")
		}
		n.op = opExists
		err := n.setAttribute(name)
		if err != nil {
			return nil, err
		}
		return n, p.advance()
	case reserved(t):
		p.token = t
		return nil, p.unexpected("a value")
	case p.token.is("("):
		return p.function(n, t)
	}
	n.op = opAttribute
	return n, n.setAttribute(t)
}

func reserved(t token) bool {
	for _, word := range [...]string{"AND", "OR", "XOR", "NOT", "LIKE", "IN", "EXISTS", "TRUE", "FALSE"} {
		if t.is(word) {
			return true
		}
	}
	return false
}

// setAttribute does not take what no event has.
func (n *node) setAttribute(t token) *Error {
	n.name = strings.ToLower(t.text)
	switch {
	case strings.Contains(n.name, "_"):
		return parseError(t.at, "attribute names are made of letters and digits")
	case n.name == "data":
		return parseError(t.at, "an expression sees the attributes of an event, not its data")
	}
	n.missing = (&Error{Kind: MissingAttributeError, at: t.at, text: "the event has no attribute " + n.name}).in(n.source)
	return nil
}

func (p *parser) function(n *node, name token) (*node, *Error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.token.is(")") {
		if err := p.advance(); err != nil {
			return nil, err
		}
	} else if err := p.list(n); err != nil {
		return nil, err
	}
	f, ok := functions[strings.ToUpper(name.text)]
	if !ok {
		return nil, &Error{Kind: MissingFunctionError, at: name.at, text: "there is no function " + name.text}
	}
	if len(n.args) < len(f.params)-f.optional || len(n.args) > len(f.params) && !f.variadic {
		return nil, &Error{Kind: MissingFunctionError, at: name.at, text: "wrong number of arguments for " + strings.ToUpper(name.text)}
	}
	n.op, n.function = opFunction, f
	return n, nil
}
