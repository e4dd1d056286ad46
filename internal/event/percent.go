package event

import (
	"errors"
	"strings"
)

const hexDigits = "0123456789ABCDEF"

// percentEncode encodes a header value as the HTTP binding asks: spaces, double
// quotes, per cent signs and all that is not printable ASCII, byte by byte.
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

var errPercent = errors.New("bad percent-encoding")

// percentDecode undoes percentEncode, after taking off the quotes that a sender
// may put around a value. It decodes once; bytes that needed no encoding but
// came without it are taken as they are.
func percentDecode(s string) (string, error) {
	s = unquote(s)
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errPercent
		}
		high, ok1 := hexValue(s[i+1])
		low, ok2 := hexValue(s[i+2])
		if !ok1 || !ok2 {
			return "", errPercent
		}
		b.WriteByte(high<<4 | low)
		i += 2
	}
	return b.String(), nil
}

// unquote reads a quoted-string of RFC 9110; any other value is itself.
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' && i+1 < len(s)-1 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func hexValue(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
