package event

import (
	"fmt"
	"strconv"
)

// InvalidError says why bytes are not a CloudEvent. It repeats no value.
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

// Detail is Error without its prefix, for an answer whose title says that.
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
