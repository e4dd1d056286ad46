package event

import (
	"slices"
	"strconv"
	"strings"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// Limits on the context attributes. Some forms carry them in headers, which
// servers limit to 32 KiB: a larger event could be read but never delivered.
const (
	maxValue      = 2048    // bytes of one value
	maxContext    = 8 << 10 // bytes of all names and values
	maxAttributes = 64
	maxName       = 64
)

func tooLong() error {
	return invalid("", "the attributes are longer than %d bytes together", maxContext)
}

// builder collects the attributes of one event and refuses what no event may have.
type builder struct {
	untyped bool // the form has only text: known integers are read as such
	ctx     ce.EventContextV1
	names   []string // set so far; so few that a scan beats a map
	size    int
	texts   strings.Builder // what keep has returned
}

// keep copies text. The values of an event are one allocation as a rule.
func (b *builder) keep(text []byte) string {
	if b.texts.Cap() == 0 {
		b.texts.Grow(384) // enough for our own events
	}
	from := b.texts.Len()
	b.texts.Write(text)
	return b.texts.String()[from:]
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
		return tooLong()
	}
	return nil
}

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

// pointer moves its argument to the heap; &text in core would move every
// attribute's text there.
func pointer(s string) *string { return &s }

func (b *builder) extension(name string, value any) {
	if b.ctx.Extensions == nil {
		b.ctx.Extensions = make(map[string]any, 8)
	}
	b.ctx.Extensions[name] = value
}

// required reports the first attribute that every event has and this one lacks.
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
	data, shape, err := payload(b.ctx.DataContentType, data)
	if err != nil {
		return Event{}, err
	}
	return b.finish(data, shape), nil
}

// finish is event for required attributes and data that were checked.
func (b *builder) finish(data []byte, shape dataShape) Event {
	ctx := b.ctx // the event must not keep the builder alive
	return Event{Context: &ctx, DataEncoded: data, DataBase64: shape == dataBinary}
}
