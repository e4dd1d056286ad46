package event

import (
	"errors"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// ErrMediaType is the error for a message in no form of a CloudEvent: it has
// neither a CloudEvents media type in UTF-8 nor attributes in ce- headers.
var ErrMediaType = errors.New("the content type is not application/cloudevents+json or application/cloudevents-batch+json, and there are no ce- headers")

// FromHTTP reads the events of a message: one in the structured or binary form,
// any number in the batch form. Its error is an *InvalidError or ErrMediaType.
func FromHTTP(h http.Header, body []byte) ([]Event, error) {
	contentTypes := h.Values("Content-Type")
	if len(contentTypes) > 1 {
		return nil, invalid("datacontenttype", "is given twice")
	}
	contentType := strings.Join(contentTypes, "")
	switch contentType { // as nearly everybody writes it
	case HTTPContentType, mediaStructured:
		return one(Parse(body))
	case mediaBatch:
		return parseBatch(body)
	}
	m, parameters, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(parameters["charset"])
	switch {
	case err == nil && strings.HasPrefix(m, "application/cloudevents") && charset != "" && charset != "utf-8":
		return nil, ErrMediaType
	case err == nil && m == mediaBatch:
		return parseBatch(body)
	case err == nil && m == mediaStructured:
		return one(Parse(body))
	case err == nil && strings.HasPrefix(m, "application/cloudevents"):
		return nil, ErrMediaType
	}
	return one(fromBinaryHTTP(h, contentType, body))
}

func one(e Event, err error) ([]Event, error) {
	if err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

func fromBinaryHTTP(h http.Header, contentType string, body []byte) (Event, error) {
	if len(body) > MaxBytes {
		return Event{}, invalid("", "it is longer than %d bytes", MaxBytes)
	}
	b := builder{untyped: true}
	// Sorted, so that the same message is always refused for the same reason.
	for _, name := range slices.Sorted(maps.Keys(h)) {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "ce-") {
			continue
		}
		lower = lower[len("ce-"):]
		if len(h[name]) != 1 {
			return Event{}, invalid(lower, "is given twice")
		}
		if err := b.setHeader(lower, percentDecode(h[name][0])); err != nil {
			return Event{}, err
		}
	}
	if len(b.names) == 0 && !couldBeData(contentType) {
		return Event{}, ErrMediaType
	}
	if contentType != "" {
		if err := b.set("datacontenttype", contentType); err != nil {
			return Event{}, err
		}
	}
	return b.event(slices.Clone(body))
}

// couldBeData reports whether a message without a ce- header is better refused
// for the attributes it lacks than for its type: JSON posted by hand, also by
// curl without a Content-Type option.
func couldBeData(contentType string) bool {
	if contentType == "" {
		return true
	}
	m, _, err := mime.ParseMediaType(contentType)
	return err == nil && (jsonType(&contentType) || m == "application/x-www-form-urlencoded")
}
