package event

import (
	"errors"
	"mime"
	"net/http"
	"strings"
)

// ErrMediaType says that a body is of a type that carries no event here.
var ErrMediaType = errors.New("the content type is none of application/cloudevents+json, application/cloudevents-batch+json, or binary mode with ce- headers")

// FromHTTP reads the events of a request in structured, batch or binary mode.
func FromHTTP(h http.Header, body []byte) ([]Event, error) {
	if len(h["Content-Type"]) > 1 {
		return nil, invalid("content-type", "occurs twice")
	}
	contentType := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, ErrMediaType
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") && strings.HasPrefix(media, "application/cloudevents") {
		return nil, ErrMediaType
	}
	switch {
	case media == "application/cloudevents+json":
		e, err := Parse(body)
		if err != nil {
			return nil, err
		}
		return []Event{e}, nil
	case media == "application/cloudevents-batch+json":
		return ParseBatch(body)
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, ErrMediaType
	}
	return fromBinaryHTTP(h, media, contentType, body)
}

func fromBinaryHTTP(h http.Header, media, contentType string, body []byte) ([]Event, error) {
	e := blank()
	found := false
	for name, values := range h {
		if !strings.HasPrefix(name, "Ce-") {
			continue
		}
		found = true
		attribute := strings.ToLower(name[len("Ce-"):])
		if len(values) != 1 {
			return nil, invalid(attribute, "occurs twice")
		}
		if attribute == "datacontenttype" {
			return nil, invalid(attribute, "belongs in the header content-type")
		}
		if err := set(&e, attribute, percentDecode(values[0])); err != nil {
			return nil, err
		}
	}
	if !found && media != "" && !isJSON(media) && media != "application/x-www-form-urlencoded" {
		return nil, ErrMediaType
	}
	if contentType != "" {
		if err := set(&e, "datacontenttype", contentType); err != nil {
			return nil, err
		}
	}
	if err := complete(e, len(h["Ce-Specversion"]) > 0); err != nil {
		return nil, err
	}
	if err := setBody(&e, body); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// StructuredHTTP is the message of e in structured mode.
func StructuredHTTP(e Event) (http.Header, []byte, error) {
	body, err := Append(make([]byte, 0, 640), e)
	if err != nil {
		return nil, nil, err
	}
	return http.Header{"Content-Type": {contentStructured}}, body, nil
}

// BinaryHTTP is the message of e in binary mode. Values are percent-encoded as
// the HTTP binding says, which the SDK's own writer does not do.
func BinaryHTTP(e Event) (http.Header, []byte, error) {
	h := make(http.Header, 16)
	for _, name := range Attributes(e) {
		text, _ := Attribute(e, name)
		if name == "datacontenttype" {
			h["Content-Type"] = []string{text}
			continue
		}
		h.Set("Ce-"+name, percentEncode(text))
	}
	return h, e.DataEncoded, nil
}

const hexDigits = "0123456789ABCDEF"

// percentEncode encodes space, double quote, percent and all outside printable ASCII.
func percentEncode(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return mustEncode(byte(min(r, 0xff))) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; mustEncode(c) {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func mustEncode(c byte) bool { return c <= 0x20 || c >= 0x7f || c == '"' || c == '%' }

// percentDecode undoes percentEncode; a percent sign without two hex digits
// after it stands for itself, as senders that do not encode mean it.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := strings.IndexByte(hexDigits, upper(s[i+1])), strings.IndexByte(hexDigits, upper(s[i+2]))
			if hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func upper(c byte) byte {
	if c >= 'a' && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}
