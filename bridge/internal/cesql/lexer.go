package cesql

import "strings"

// token is one word of an expression.
type token struct {
	kind tokenKind
	text string // as it is written
	at   int    // its first byte
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenDigits
	tokenString
	tokenSymbol
)

// is reports whether t is the keyword or symbol text. Keywords have no case.
func (t token) is(text string) bool {
	return (t.kind == tokenName || t.kind == tokenSymbol) && strings.EqualFold(t.text, text)
}

// next reads the token at or after the byte at.
func next(text string, at int) (token, *Error) {
	for at < len(text) && strings.IndexByte(" \t\r\n", text[at]) >= 0 {
		at++
	}
	rest := text[at:]
	switch {
	case rest == "":
		return token{at: at}, nil
	case rest[0] == '\'' || rest[0] == '"':
		return quoted(text, at)
	case isNameByte(rest[0]):
		n := 1
		for n < len(rest) && isNameByte(rest[n]) {
			n++
		}
		t := token{tokenName, rest[:n], at}
		if strings.Trim(t.text, "0123456789") == "" {
			t.kind = tokenDigits
		}
		return t, nil
	}
	for _, symbol := range [...]string{"!=", "<>", ">=", "<=", "=", "<", ">", "(", ")", ",", "+", "-", "*", "/", "%"} {
		if strings.HasPrefix(rest, symbol) {
			return token{tokenSymbol, symbol, at}, nil
		}
	}
	return token{}, parseError(at, "a character that has no meaning here; text goes into quotes")
}

func isNameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_'
}

// quoted reads a string literal. A backslash takes the next character along, so
// that it may be the quote.
func quoted(text string, at int) (token, *Error) {
	for i := at + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[at]:
			return token{tokenString, text[at : i+1], at}, nil
		}
	}
	return token{}, parseError(at, "a text without its closing quote")
}

// unquoted is the content of a string literal. Only the quote loses its
// backslash: LIKE has a meaning for others.
func unquoted(literal string) string {
	quote := literal[:1]
	return strings.ReplaceAll(literal[1:len(literal)-1], `\`+quote, quote)
}
