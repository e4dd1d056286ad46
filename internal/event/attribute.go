package event

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	specVersion = "1.0"
	mediaJSON   = "application/json"
)

// Limits on the context attributes. Some forms carry them in headers, which servers
// limit to 32 KiB: an event over these could be read but never be delivered.
const (
	maxValue      = 2048    // bytes of one value
	maxContext    = 8 << 10 // bytes of all names and values
	maxAttributes = 64
	maxName       = 64
)

// InvalidError says why bytes are no CloudEvent. It repeats no value.
type InvalidError struct {
	Attribute string // the attribute at fault, or data; "" when it is the message as a whole
	Reason    string // continues the attribute's name: "is missing"
	index     *int   // position in a batch
}

func invalid(attribute, format string, args ...any) *InvalidError {
	return &InvalidError{Attribute: attribute, Reason: fmt.Sprintf(format, args...)}
}

func (e *InvalidError) at(index int) *InvalidError {
	e.index = &index
	return e
}

// Error names the attribute: "not a CloudEvent: id is missing".
func (e *InvalidError) Error() string {
	return "not a CloudEvent: " + e.Detail()
}

// Detail is the sentence without its prefix, for an answer whose title says the rest.
func (e *InvalidError) Detail() string {
	s := e.Reason
	if e.Attribute != "" {
		s = e.Attribute + " " + s
	}
	if e.index != nil {
		s = fmt.Sprintf("event %d of the batch: %s", *e.index, s)
	}
	return s
}

// Pointer is the JSON pointer of the attribute in the structured or batch form.
func (e *InvalidError) Pointer() string {
	p := "#"
	if e.index != nil {
		p += "/" + strconv.Itoa(*e.index)
	}
	if e.Attribute != "" {
		p += "/" + e.Attribute
	}
	return p
}

// builder collects the attributes of one event and refuses what no event has.
type builder struct {
	untyped bool // the form has text only: known integers are read as such
	scanned bool // the data was a JSON value in a text that is known to be JSON
	ctx     ce.EventContextV1
	names   []string // set so far; a handful, so a scan beats a map
	size    int
}

// set takes a string, an int32 or a bool.
func (b *builder) set(name string, value any) error {
	if text, ok := value.(string); ok {
		return b.setText(name, text)
	}
	text, err := types.Format(value)
	if err != nil {
		return invalid(name, "has no CloudEvents type")
	}
	if err := b.admit(name, text); err != nil {
		return err
	}
	if core(name) {
		return invalid(name, "is not a string")
	}
	b.extension(name, value)
	return nil
}

func (b *builder) setText(name, text string) error {
	if err := b.admit(name, text); err != nil {
		return err
	}
	if core(name) {
		if text == "" {
			return invalid(name, "is empty")
		}
		return b.core(name, text)
	}
	if b.untyped && name == VersionOfTask {
		// Only the canonical decimal, so that it reads back as the same text.
		if n, err := strconv.ParseInt(text, 10, 32); err == nil && strconv.FormatInt(n, 10) == text {
			b.extension(name, int32(n))
			return nil
		}
	}
	b.extension(name, text)
	return nil
}

// admit checks what holds for every attribute; text is its canonical text.
func (b *builder) admit(name, text string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if slices.Contains(b.names, name) {
		return invalid(name, "is given twice")
	}
	if b.names == nil {
		b.names = make([]string, 0, 16)
	}
	if b.names = append(b.names, name); len(b.names) > maxAttributes {
		return invalid("", "more than %d attributes", maxAttributes)
	}
	if err := checkText(name, text); err != nil {
		return err
	}
	if b.size += len(name) + len(text); b.size > maxContext {
		return invalid("", "the attributes are longer than %d bytes together", maxContext)
	}
	return nil
}

// coreNames are the specification's own attributes in the order of writing; the
// first four are required.
var coreNames = [...]string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}

func core(name string) bool { return slices.Contains(coreNames[:], name) }

func (b *builder) core(name, text string) error {
	switch name {
	case "specversion":
		if text != specVersion {
			return invalid(name, "is not 1.0")
		}
	case "id":
		b.ctx.ID = text
	case "type":
		b.ctx.Type = text
	case "subject":
		b.ctx.Subject = pointer(text)
	case "source":
		u, err := uri(text)
		if err != nil || !uriCharacters(text) {
			return invalid(name, "is not a URI reference")
		}
		b.ctx.Source = types.URIRef{URL: u}
	case "dataschema":
		u, err := uri(text)
		if err != nil || !uriCharacters(text) || !absolute(text) {
			return invalid(name, "is not an absolute URI")
		}
		b.ctx.DataSchema = &types.URI{URL: u}
	case "time":
		t, err := parseTime(text)
		if err != nil {
			return err
		}
		b.ctx.Time = &types.Timestamp{Time: t}
	case "datacontenttype":
		if _, err := mediaType(text); err != nil {
			return err
		}
		b.ctx.DataContentType = pointer(text)
	}
	return nil
}

// pointer moves its argument to the heap, and not the parameter of core with
// every attribute.
func pointer(s string) *string { return &s }

func (b *builder) extension(name string, value any) {
	if b.ctx.Extensions == nil {
		b.ctx.Extensions = make(map[string]any, 8)
	}
	b.ctx.Extensions[name] = value
}

// required reports the first attribute that every event has and this one has not.
func (b *builder) required() error {
	for _, name := range coreNames[:4] {
		if !slices.Contains(b.names, name) {
			return invalid(name, "is missing")
		}
	}
	return nil
}

// event completes the event with data, which it keeps.
func (b *builder) event(data []byte) (Event, error) {
	if err := b.required(); err != nil {
		return Event{}, err
	}
	data, binary, err := payload(b.ctx.DataContentType, data, b.scanned)
	if err != nil {
		return Event{}, err
	}
	ctx := b.ctx // the builder is not kept alive by its event
	return Event{Context: &ctx, DataEncoded: data, DataBase64: binary}, nil
}

// payload brings data into the one shape it has whatever form it came in:
// nil when there is none, JSON without the white space around it, and binary
// when a JSON text cannot carry it as it is.
func payload(contentType *string, data []byte, scanned bool) (_ []byte, binary bool, err error) {
	if len(data) == 0 {
		return nil, false, nil
	}
	if !isJSON(contentType) {
		return data, !utf8.Valid(data), nil
	}
	if scanned {
		return data, false, nil
	}
	if trimmed := bytes.Trim(data, " \t\r\n"); jsontext.Value(trimmed).IsValid() {
		return trimmed, false, nil
	}
	if contentType != nil {
		return nil, false, invalid("data", "is not the JSON that datacontenttype promises, or names a member twice")
	}
	return data, true, nil
}

// isJSON follows the JSON format: without a content type, data is JSON.
func isJSON(contentType *string) bool {
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

// checkName holds names to the specification: lower-case letters and digits.
func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	switch {
	case name == "":
		return invalid("", "an attribute has an empty name")
	case len(name) > maxName:
		return invalid("", "an attribute name is longer than %d characters", maxName)
	case bad:
		return invalid("", "attribute name %+q is not made of lower-case letters and digits", name)
	case name == "data":
		return invalid("data", "is not an attribute")
	}
	return nil
}

// checkText holds values to the String type of the specification, which keeps
// line feeds out of logs and headers.
func checkText(name, s string) error {
	if len(s) > maxValue {
		return invalid(name, "is longer than %d bytes", maxValue)
	}
	if !utf8.ValidString(s) {
		return invalid(name, "is not UTF-8")
	}
	for _, r := range s {
		switch {
		case r <= 0x1f || (r >= 0x7f && r <= 0x9f):
			return invalid(name, "holds a control character")
		case (r >= 0xfdd0 && r <= 0xfdef) || r&0xfffe == 0xfffe:
			return invalid(name, "holds a code point that is no character")
		}
	}
	return nil
}

// uriCharacters says whether s has only what RFC 3986 allows anywhere in a URI;
// url.Parse lets spaces, quotes and letters beyond ASCII pass.
func uriCharacters(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
	})
}

// absolute asks the text, not the parsed URL: one kept byte for byte has no scheme of its own.
func absolute(s string) bool {
	u := types.ParseURI(s)
	return u != nil && u.IsAbs()
}

// parseTime reads RFC 3339. What Go would read but not write back the same is
// refused: a comma, one digit for the hour, fractions finer than a nanosecond.
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
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, invalid("time", "is not an RFC 3339 time")
	}
	return t, nil
}

// attribute is one context attribute in its canonical text.
type attribute struct {
	name, text string
	bare       bool // a number or boolean: JSON has it without quotes
}

// attributes lists those of e in a fixed order and checks them as strictly as
// reading does, so that nothing is written that could not be read back.
func attributes(e Event) ([]attribute, error) {
	c, err := context(e)
	if err != nil {
		return nil, err
	}
	list := make([]attribute, 0, 8+len(c.Extensions))
	var b builder
	for _, name := range coreNames {
		text, ok := Attribute(e, name)
		if !ok {
			continue
		}
		if err := b.setText(name, text); err != nil {
			return nil, err
		}
		list = append(list, attribute{name: name, text: text})
	}
	if err := b.required(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Extensions)) {
		if core(name) {
			return nil, invalid(name, "is given twice")
		}
		a, err := extensionText(name, c.Extensions[name])
		if err != nil {
			return nil, err
		}
		if err := b.setText(name, a.text); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

func extensionText(name string, value any) (attribute, error) {
	text, err := types.Format(value)
	if err != nil {
		return attribute{}, invalid(name, "has no CloudEvents type")
	}
	a := attribute{name: name, text: text}
	switch value.(type) {
	case string, []byte, types.URI, types.URIRef, types.Timestamp, *types.URI, *types.URIRef, *types.Timestamp, time.Time, *time.Time:
	default:
		a.bare = true
	}
	return a, nil
}

// decodeBase64 refuses what base64.StdEncoding overlooks: line feeds and loose padding bits.
func decodeBase64(s []byte) ([]byte, error) {
	if bytes.ContainsAny(s, "\r\n") {
		return nil, invalid("data_base64", "is not base64")
	}
	out, err := base64.StdEncoding.Strict().AppendDecode(nil, s)
	if err != nil {
		return nil, invalid("data_base64", "is not base64")
	}
	return out, nil
}
