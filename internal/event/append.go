package event

import (
	"encoding/base64"

	"github.com/go-json-experiment/json/jsontext"
)

// Append adds the structured JSON form of e to dst: members in a fixed order,
// JSON data byte for byte. The same event always has the same form.
func Append(dst []byte, e Event) ([]byte, error) {
	list, data, shape, err := parts(e)
	if err != nil {
		return dst, err
	}
	var q quoter // parts has checked that all texts are UTF-8
	separator := byte('{')
	for _, a := range list {
		dst = append(dst, separator, '"')
		dst = append(dst, a.name...)
		dst = append(dst, '"', ':')
		if a.bare {
			dst = append(dst, a.text...)
		} else {
			dst = q.append(dst, a.text)
		}
		separator = ','
	}
	switch shape {
	case dataJSON:
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	case dataText:
		dst = append(dst, `,"data":`...)
		dst = q.append(dst, string(data))
	case dataBinary:
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, data)
		dst = append(dst, '"')
	}
	return append(dst, '}'), nil
}

// parts is what every written form of e is made of.
func parts(e Event) (list []attribute, data []byte, shape dataShape, err error) {
	if list, err = attributes(e); err != nil {
		return nil, nil, dataNone, err
	}
	c, err := context(e)
	if err != nil {
		return nil, nil, dataNone, err
	}
	data, shape, err = payload(c.DataContentType, e.DataEncoded)
	return list, data, shape, err
}

// quoter adds JSON strings that escape no more than JSON requires, so that one
// event has one form. It remembers what was unusual about them.
type quoter struct {
	escaped bool // one held more than plain text
	invalid bool // one was not UTF-8
	size    int  // bytes of all, before escaping
}

func (q *quoter) append(b []byte, s string) []byte {
	q.size += len(s)
	if plain(s) { // nearly always
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	q.escaped = true
	b, err := jsontext.AppendQuote(b, s)
	q.invalid = q.invalid || err != nil
	return b
}

// plain reports whether s is printable ASCII that JSON strings hold unescaped.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
