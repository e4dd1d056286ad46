package ledger

import (
	"bytes"
	"fmt"
)

// A scanner reads one line strictly: it accepts exactly the members, the order
// and the spacing that render writes, so that a line it accepts is a line this
// package wrote. It keeps the first mistake in err and its position in pos.
type scanner struct {
	b   []byte
	pos int
	err error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// lit consumes the literal or fails at the first byte that differs.
func (s *scanner) lit(want string) bool {
	if s.err != nil {
		return false
	}
	if s.peek(want) {
		s.pos += len(want)
		return true
	}
	for i := 0; s.pos < len(s.b) && i < len(want) && s.b[s.pos] == want[i]; i++ {
		s.pos++
	}
	s.fail("%q expected", want)
	return false
}

func (s *scanner) peek(want string) bool {
	return s.err == nil && len(s.b)-s.pos >= len(want) && string(s.b[s.pos:s.pos+len(want)]) == want
}

// positive consumes a positive integer without leading zeros and returns it.
func (s *scanner) positive() int64 {
	start, n := s.pos, int64(0)
	for s.err == nil && s.pos < len(s.b) && s.b[s.pos] >= '0' && s.b[s.pos] <= '9' {
		if s.pos-start >= 18 {
			s.fail("number too long")
			return 0
		}
		n = n*10 + int64(s.b[s.pos]-'0')
		s.pos++
	}
	if s.err == nil && (n == 0 || s.b[start] == '0') {
		s.pos = start
		s.fail("positive number expected")
	}
	return n
}

// str consumes a JSON string and returns it unchanged, quotes included.
func (s *scanner) str() []byte {
	if s.err != nil {
		return nil
	}
	end, ok := skipString(s.b, s.pos)
	if !ok {
		s.pos = end
		s.fail("string expected")
		return nil
	}
	raw := s.b[s.pos:end]
	s.pos = end
	return raw
}

// scalar consumes a string, an integer, true, false or null.
func (s *scanner) scalar() []byte {
	from := s.pos
	raw := s.value()
	if len(raw) > 0 && (raw[0] == '{' || raw[0] == '[' || raw[0] != '"' && bytes.ContainsAny(raw, ".eE") && string(raw) != "true" && string(raw) != "false") {
		s.pos = from
		s.fail("string, integer or boolean expected")
		return nil
	}
	return raw
}

func (s *scanner) stringOrNull() []byte {
	if s.peek("null") {
		s.lit("null")
		return nullWord
	}
	return s.str()
}

// nullWord must not be modified.
var nullWord = []byte("null")

// value consumes any JSON value and returns it unchanged.
func (s *scanner) value() []byte {
	if s.err != nil {
		return nil
	}
	end, ok := skipValue(s.b, s.pos, 0)
	if !ok {
		s.pos = end
		s.fail("JSON value expected")
		return nil
	}
	raw := s.b[s.pos:end]
	s.pos = end
	return raw
}
