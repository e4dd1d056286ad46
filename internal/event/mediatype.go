package event

import (
	"mime"
	"strings"
)

const (
	mediaJSON       = "application/json"
	mediaStructured = "application/cloudevents+json"
	mediaBatch      = "application/cloudevents-batch+json"
)

// Content types of the structured form that we write. They differ in the case
// of the parameter's value, which has no meaning: our readers accept any.
const (
	// KafkaContentType is spelt as the examples of the Kafka binding spell it.
	// Consumers that were written for those may compare the bytes.
	KafkaContentType = mediaStructured + "; charset=UTF-8"

	// HTTPContentType is in lower case because the JavaScript SDK of
	// CloudEvents, versions 6 to 10, refuses a message with UTF-8.
	HTTPContentType = mediaStructured + "; charset=utf-8"
)

// JSONType reports whether the data of e is JSON by its content type. As the
// JSON format of CloudEvents says, so is data without a content type, if it can be.
func JSONType(e Event) bool {
	c, err := context(e)
	return err == nil && jsonType(c.DataContentType)
}

func jsonType(contentType *string) bool {
	if contentType == nil {
		return true
	}
	m, err := mediaType(*contentType)
	return err == nil && (m == mediaJSON || m == "text/json" || strings.HasSuffix(m, "+json"))
}

func mediaType(s string) (string, error) {
	if s == mediaJSON { // nearly always
		return s, nil
	}
	m, _, err := mime.ParseMediaType(s)
	if err != nil || !strings.Contains(m, "/") {
		return "", invalid("datacontenttype", "is not a media type")
	}
	return m, nil
}
