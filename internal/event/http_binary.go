package event

import (
	"net/http"
	"strings"
)

// BinaryHTTP is e as an HTTP message in the binary form: its attributes in
// headers, with the names as net/http spells them, and its data as the body.
//
// An event whose data is a CloudEvents message itself has no such form: its
// content type would say that the body is the event.
func BinaryHTTP(e Event) (http.Header, []byte, error) {
	list, data, _, err := parts(e)
	if err != nil {
		return nil, nil, err
	}
	h := make(http.Header, len(list))
	for _, a := range list {
		if a.name != "datacontenttype" {
			h["Ce-"+strings.ToUpper(a.name[:1])+a.name[1:]] = []string{percentEncode(a.text)}
			continue
		}
		if IsMessage(a.text) {
			return nil, nil, invalid(a.name, "is that of a CloudEvents message, which the binary form cannot carry as data")
		}
		h["Content-Type"] = []string{a.text}
	}
	return h, data, nil
}

// IsMessage reports whether a content type says that the body is an event, or
// events, in whatever format.
func IsMessage(contentType string) bool {
	const message = "application/cloudevents"
	contentType = strings.TrimLeft(contentType, " \t")
	return len(contentType) >= len(message) && strings.EqualFold(contentType[:len(message)], message)
}

// percentEncode writes a header value as the HTTP binding says: spaces, double
// quotes, percent signs and whatever is not printable ASCII, byte by byte.
func percentEncode(s string) string {
	const digits = "0123456789ABCDEF"
	n := 0
	for i := range len(s) {
		if !bare(s[i]) {
			n++
		}
	}
	if n == 0 { // nearly always
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; bare(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

func bare(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }
