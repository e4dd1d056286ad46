package event

import (
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/types"
)

// checkText holds values to the String type of the specification, which keeps
// line feeds out of logs and headers.
func checkText(name, s string) error {
	if len(s) > maxValue {
		return invalid(name, "is longer than %d bytes", maxValue)
	}
	if plain(s) {
		return nil
	}
	if !utf8.ValidString(s) {
		return invalid(name, "is not UTF-8")
	}
	for _, r := range s {
		switch {
		case r <= 0x1f || (r >= 0x7f && r <= 0x9f):
			return invalid(name, "holds a control character")
		case (r >= 0xfdd0 && r <= 0xfdef) || r&0xfffe == 0xfffe:
			return invalid(name, "holds a code point that is not a character")
		}
	}
	return nil
}

// uri keeps s byte for byte. The SDK stores URIs parsed and formats them again,
// which would change one not in normal form, and with source the event's identity.
func uri(s string) (url.URL, error) {
	if !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) {
		return url.URL{Path: s}, nil // as below, for the plain names that sources are nearly always
	}
	u, err := url.Parse(s)
	if err != nil {
		return url.URL{}, err
	}
	if u.String() != s {
		return url.URL{Opaque: s}, nil
	}
	return *u, nil
}

// uriCharacters reports whether s has only what RFC 3986 allows anywhere in a
// URI; url.Parse accepts spaces, quotes and letters beyond ASCII.
func uriCharacters(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
	})
}

// absolute looks at the text, not at the parsed URL: one that uri keeps byte for byte has no scheme.
func absolute(s string) bool {
	u := types.ParseURI(s)
	return u != nil && u.IsAbs()
}

// parseTime reads RFC 3339. It refuses what Go reads but would not write back
// the same: a comma, one digit for the hour, fractions finer than a nanosecond.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || len(s) < len("2006-01-02T15:04:05Z") || s[13] != ':' || strings.Contains(s, ",") {
		return time.Time{}, invalid("time", "is not an RFC 3339 time")
	}
	if i := strings.IndexByte(s, '.'); i >= 0 {
		digits := strings.IndexFunc(s[i+1:], func(r rune) bool { return r < '0' || r > '9' })
		if digits > 9 {
			return time.Time{}, invalid("time", "is finer than a nanosecond")
		}
	}
	if !writableYear(t) {
		return time.Time{}, invalid("time", "is not an RFC 3339 time")
	}
	return t.UTC(), nil
}

// writableYear reports whether RFC 3339 has four digits for the year of t in UTC.
func writableYear(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 0 && y <= 9999
}
