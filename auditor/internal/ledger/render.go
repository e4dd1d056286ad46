package ledger

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// stampLayout has a fixed width, so that the end of a line can be removed
// without parsing the line.
const stampLayout = "2006-01-02T15:04:05.000000Z"

// rendered is an entry that is not in the log yet: the middle of its line,
// without seq and audited_at, which the writer adds. Equal events render to
// equal bytes, so that content is compared without parsing.
type rendered struct {
	content    []byte
	id, source []byte // as the line encodes them; part of content
	key        string // source and id: the quotes keep the two apart
	task       []byte // encoded task id, nil when the event is about no task
	version    int64
	hasVersion bool
}

// render encodes the entry. The error is an *InvalidError.
func render(e Entry) (rendered, error) {
	attrs := e.Attributes
	byName := func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(attrs, byName) {
		attrs = slices.Clone(attrs) // the caller's slice keeps its order
		slices.SortFunc(attrs, byName)
	}
	if err := e.check(attrs); err != nil {
		return rendered{}, err
	}
	var r rendered
	b := make([]byte, 0, 512+len(e.Data))
	b = append(b, `"event_id":`...)
	idFrom := len(b)
	b = appendString(b, e.ID)
	idTo := len(b)
	b = append(b, `,"event_type":`...)
	b = appendString(b, e.Type)
	b = append(b, `,"occurred_at":`...)
	b = appendStringOrNull(b, e.Time)
	b = appendData(b, e)
	b = append(b, `,"metadata":{"correlation_id":`...)
	b = appendScalar(b, e.Attribute(attrCorrelation))
	b = append(b, `,"source":`...)
	sourceFrom := len(b)
	b = appendString(b, e.Source)
	sourceTo := len(b)
	b = append(b, `},"attributes":{`...)
	first := true
	for _, a := range attrs {
		if a.Name == attrCorrelation {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, a.Name)
		b = append(b, ':')
		b = appendScalar(b, a.Value)
	}
	r.content = append(b, '}')
	if len(r.content) > maxLine-128 {
		return rendered{}, &InvalidError{Reason: fmt.Sprintf("longer than %d bytes", maxLine)}
	}
	r.id, r.source = b[idFrom:idTo], b[sourceFrom:sourceTo]
	r.key = string(r.source) + string(r.id)
	if id := e.TaskID(); id != "" {
		r.task = appendString(nil, id)
	}
	r.version, r.hasVersion = e.TaskVersion()
	return r, nil
}

func appendData(b []byte, e Entry) []byte {
	if e.Data == nil {
		return b
	}
	data, isJSON := e.Data, false
	if !e.Base64 {
		data, isJSON = LineData(e.Data)
	}
	if isJSON {
		b = append(b, `,"data":`...)
		return append(b, data...)
	}
	b = append(b, `,"data_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, data)
	return append(b, '"')
}

// appendLine appends the finished line. The writer chooses seq and stamp.
func appendLine(b []byte, seq int64, content []byte, stamp time.Time) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, ',')
	b = append(b, content...)
	b = append(b, `,"audited_at":"`...)
	b = stamp.UTC().AppendFormat(b, stampLayout)
	return append(b, "\"}\n"...)
}

// appendString escapes what JSON requires and, so that a line is safe to print on
// a terminal, every other control character and the two Unicode line separators.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i, r := range s {
		if r >= 0x20 && r < 0x7f && r != '"' && r != '\\' || r >= 0xa0 && r != '\u2028' && r != '\u2029' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + utf8.RuneLen(r)
		if r == '"' || r == '\\' {
			b = append(b, '\\', byte(r))
			continue
		}
		b = fmt.Appendf(b, `\u%04x`, r)
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

func appendScalar(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendString(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	}
	return append(b, "null"...)
}
