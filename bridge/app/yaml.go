package app

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	largest = 128 << 10 // bytes of a configuration file; the parser takes time that grows with its square
	deepest = 32        // brackets and dashes within each other
)

// parseYAML returns the one document of a file, nil when it is empty. It takes
// less than YAML: nothing that can grow when it is read, and nothing after which
// an operator and the bridge may understand a file differently.
func parseYAML(path string, text []byte) (ast.Node, error) {
	switch {
	case len(text) > largest:
		return nil, fmt.Errorf("%s: is larger than %d KiB", path, largest>>10)
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")), bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return nil, fmt.Errorf("%s:1:1: begins with a byte order mark; save it as UTF-8 without one", path)
	case !utf8.Valid(text):
		return nil, fmt.Errorf("%s: is not UTF-8", path)
	}
	tokens := lexer.Tokenize(string(text))
	if at, why := unwanted(tokens); at != nil {
		return nil, errors.New(place(path, at) + why)
	}
	if at := second(tokens); at != nil {
		return nil, errors.New(place(path, at) + "a second document; the configuration is one")
	}
	parsed, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, syntaxError(path, err)
	}
	for _, doc := range parsed.Docs {
		if doc.Body != nil {
			return doc.Body, nil
		}
	}
	return nil, nil
}

// second finds the beginning of a second document. The parser drops the content
// of some of them.
func second(tokens token.Tokens) *token.Token {
	begun, ended := false, false
	for _, t := range tokens {
		switch t.Type {
		case token.CommentType:
		case token.DocumentHeaderType:
			if begun {
				return t
			}
			begun = true
		case token.DocumentEndType:
			ended = true
		default:
			if ended {
				return t
			}
			begun = true
		}
	}
	return nil
}

// unwanted finds what is refused before it is parsed. The parser takes time that
// grows with the square of the depth, and a stack that no recover can give back.
func unwanted(tokens token.Tokens) (at *token.Token, why string) {
	flow, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return t, "anchors and aliases are not supported; write the value out"
		case token.DirectiveType:
			return t, "directives are not supported; delete the line"
		case token.TagType:
			return t, "tags are not supported; quote a value that begins with an exclamation mark"
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		}
		if flow+dashes > deepest {
			return t, fmt.Sprintf("more than %d levels within each other", deepest)
		}
	}
	return nil, ""
}

var (
	quoted = regexp.MustCompile(` ?"(?:[^"\\]|\\.)*"`)
	plain  = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,200}$`)
)

// isPlain reports whether text may be repeated in an error: a key or a name, and
// not an address with a password in it.
func isPlain(text string) bool { return plain.MatchString(text) }

// syntaxError is the library's error without its excerpt of the file.
func syntaxError(path string, err error) error {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil {
		return fmt.Errorf("%s: is not YAML that can be read", path)
	}
	message := quoted.ReplaceAllStringFunc(e.GetMessage(), func(found string) string {
		if text, err := strconv.Unquote(strings.TrimPrefix(found, " ")); err == nil && isPlain(text) {
			return found
		}
		return ""
	})
	return errors.New(place(path, e.GetToken()) + message)
}

func place(path string, at *token.Token) string {
	return fmt.Sprintf("%s:%d:%d: ", path, at.Position.Line, at.Position.Column)
}
