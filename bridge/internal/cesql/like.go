package cesql

import (
	"strings"
	"unicode/utf8"
)

// pattern is that of a LIKE, cut at its percent signs. The first part stands at
// the beginning of a text that matches, the last at its end, and the others in
// between, each as far left as it can: so nothing is tried twice.
type pattern struct{ parts [][]piece }

// piece is a number of characters that may be any, then a text.
type piece struct {
	skip int
	text string
}

func newPattern(source string) *pattern {
	p := &pattern{}
	var part []piece
	var text strings.Builder
	skip := 0
	flush := func() {
		if skip > 0 || text.Len() > 0 {
			part = append(part, piece{skip, text.String()})
		}
		skip = 0
		text.Reset()
	}
	for i := 0; i < len(source); i++ {
		switch c := source[i]; {
		case c == '%':
			flush()
			p.parts = append(p.parts, part)
			part = nil
		case c == '_':
			if text.Len() > 0 {
				flush()
			}
			skip++
		case c == '\\' && i+1 < len(source) && (source[i+1] == '%' || source[i+1] == '_'):
			i++
			text.WriteByte(source[i])
		default:
			text.WriteByte(c)
		}
	}
	flush()
	p.parts = append(p.parts, part)
	return p
}

func (p *pattern) match(text string) bool {
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	rest, ok := after(text, first)
	if !ok || len(p.parts) == 1 {
		return ok && rest == ""
	}
	for _, part := range p.parts[1 : len(p.parts)-1] {
		if rest, ok = find(rest, part); !ok {
			return false
		}
	}
	return endsWith(rest, last)
}

// after returns what follows part at the beginning of text.
func after(text string, part []piece) (rest string, ok bool) {
	for _, p := range part {
		for range p.skip {
			if text == "" {
				return "", false
			}
			_, size := utf8.DecodeRuneInString(text)
			text = text[size:]
		}
		if text, ok = strings.CutPrefix(text, p.text); !ok {
			return "", false
		}
	}
	return text, true
}

func endsWith(text string, part []piece) (ok bool) {
	for i := len(part) - 1; i >= 0; i-- {
		if text, ok = strings.CutSuffix(text, part[i].text); !ok {
			return false
		}
		for range part[i].skip {
			if text == "" {
				return false
			}
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		}
	}
	return true
}

// find returns what follows the first place where part stands in text.
func find(text string, part []piece) (rest string, ok bool) {
	if len(part) == 0 {
		return text, true
	}
	for {
		if part[0].skip == 0 {
			at := strings.Index(text, part[0].text)
			if at < 0 {
				return "", false
			}
			text = text[at:]
		}
		if rest, ok := after(text, part); ok {
			return rest, true
		}
		if text == "" {
			return "", false
		}
		_, size := utf8.DecodeRuneInString(text)
		text = text[size:]
	}
}
