package event

import (
	"mime"
	"strings"
)

// ForeignFormat reports whether a record is an event in a structured format other
// than JSON, such as application/cloudevents+avro. Nothing in it is read: it can
// be passed on as it is, with its content type, and that is all. A batch is none.
func ForeignFormat(r Record) (contentType string, ok bool) {
	contentType, _, err := r.contentType()
	if err != nil || r.Value == nil || len(r.Value) > MaxBytes {
		return "", false
	}
	m, _, err := mime.ParseMediaType(contentType)
	format, ok := strings.CutPrefix(m, "application/cloudevents+")
	if err != nil || !ok || format == "" || m == mediaStructured {
		return "", false
	}
	// It becomes a header as it is.
	if strings.ContainsFunc(contentType, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "", false
	}
	return contentType, true
}
