package event

import (
	"github.com/cloudevents/sdk-go/v2/types"
)

// MediaAvro is the content type of data in Avro. Such data is never text, even if
// its bytes happen to be UTF-8.
const MediaAvro = "application/avro"

// IsAvro reports whether the data of e is Avro by its content type.
func IsAvro(e Event) bool {
	c, err := context(e)
	return err == nil && avroType(c.DataContentType)
}

func avroType(contentType *string) bool {
	if contentType == nil {
		return false
	}
	if *contentType == MediaAvro {
		return true
	}
	m, err := mediaType(*contentType)
	return err == nil && m == MediaAvro
}

// AsAvro returns e with value for its data, which is Avro, and schema for the
// address of its schema. e stays as it is, and so do all other attributes.
func AsAvro(e Event, value []byte, schema string) (Event, error) {
	return withData(e, value, MediaAvro, schema)
}

// AsJSON returns e with value for its data, which is JSON, and schema, "" for none,
// for the address of its schema. e stays as it is, and so do all other attributes.
func AsJSON(e Event, value []byte, schema string) (Event, error) {
	return withData(e, value, mediaJSON, schema)
}

func withData(e Event, value []byte, contentType, schema string) (Event, error) {
	before, err := context(e)
	if err != nil {
		return Event{}, err
	}
	c := *before
	c.DataContentType, c.DataSchema = &contentType, nil
	if schema != "" {
		if err := checkText("dataschema", schema); err != nil {
			return Event{}, err
		}
		u, err := uri(schema)
		if err != nil || !uriCharacters(schema) || !absolute(schema) {
			return Event{}, invalid("dataschema", "is not an absolute URI")
		}
		c.DataSchema = &types.URI{URL: u}
	}
	value, shape, err := payload(c.DataContentType, value)
	if err != nil {
		return Event{}, err
	}
	return Event{Context: &c, DataEncoded: value, DataBase64: shape == dataBinary}, nil
}
