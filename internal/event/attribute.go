package event

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"
)

const specVersion = "1.0"

// coreNames are the specification's own attributes in the order of writing; the
// first four are required.
var coreNames = [...]string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}

func core(name string) bool { return slices.Contains(coreNames[:], name) }

// Attribute returns the canonical text of one context attribute, which does not
// depend on the form the event came in. It is false when the event lacks it.
func Attribute(e Event, name string) (string, bool) {
	c, err := context(e)
	if err != nil {
		return "", false
	}
	switch name {
	case "specversion":
		return specVersion, true
	case "id":
		return c.ID, c.ID != ""
	case "source":
		s := c.Source.String()
		return s, s != ""
	case "type":
		return c.Type, c.Type != ""
	case "subject":
		return deref(c.Subject)
	case "datacontenttype":
		return deref(c.DataContentType)
	case "dataschema":
		return c.DataSchema.String(), c.DataSchema != nil
	case "time":
		if c.Time == nil {
			return "", false
		}
		return types.FormatTime(c.Time.Time), true
	}
	v, ok := c.Extensions[name]
	if !ok {
		return "", false
	}
	s, err := types.Format(v)
	return s, err == nil
}

// Extension returns one extension attribute with its type: a string, an int32 or a
// bool in an event that was read, as its form has them.
func Extension(e Event, name string) (any, bool) {
	c, err := context(e)
	if err != nil {
		return nil, false
	}
	v, ok := c.Extensions[name]
	return v, ok
}

func deref(s *string) (string, bool) {
	if s == nil {
		return "", false
	}
	return *s, true
}

// Attributes returns the names of the attributes that e has, in the order of
// writing: the specification's first, then the extensions by name.
func Attributes(e Event) []string {
	c, err := context(e)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(coreNames)+len(c.Extensions))
	for _, name := range coreNames {
		if _, ok := Attribute(e, name); ok {
			names = append(names, name)
		}
	}
	return append(names, slices.Sorted(maps.Keys(c.Extensions))...)
}

// Text is a context attribute in its canonical text, see Attribute.
type Text struct{ Name, Text string }

// Texts returns the attributes of e in the order of Attributes.
func Texts(e Event) []Text {
	c, err := context(e)
	if err != nil {
		return nil
	}
	list := make([]Text, 0, len(coreNames)+len(c.Extensions))
	for _, name := range coreNames {
		if text, ok := Attribute(e, name); ok {
			list = append(list, Text{name, text})
		}
	}
	own := len(list)
	for name, v := range c.Extensions {
		text, ok := v.(string)
		if !ok {
			text, _ = types.Format(v) // as in Attribute, which has no text for what has no type
		}
		list = append(list, Text{name, text})
	}
	slices.SortFunc(list[own:], func(a, b Text) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// attribute is one context attribute in its canonical text.
type attribute struct {
	name, text string
	bare       bool // a number or boolean: JSON has it without quotes
}

// attributes lists those of e in the order of writing. It checks them as
// strictly as reading does, so that whatever is written can be read back.
func attributes(e Event) ([]attribute, error) {
	c, err := context(e)
	if err != nil {
		return nil, err
	}
	list := make([]attribute, 0, len(coreNames)+len(c.Extensions))
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
