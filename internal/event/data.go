package event

import (
	"bytes"
	"encoding/base64"
	"errors"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// dataShape is how the JSON format carries data.
type dataShape int

const (
	dataNone   dataShape = iota
	dataJSON             // the member data, as it is
	dataText             // the member data, as a string
	dataBinary           // the member data_base64
)

// payload gives data the one shape it has, whatever form it came in. JSON loses
// the white space around it. Data without a content type that is not JSON is binary.
func payload(contentType *string, data []byte) ([]byte, dataShape, error) {
	if len(data) == 0 {
		return nil, dataNone, nil
	}
	if !jsonType(contentType) {
		if utf8.Valid(data) && !avroType(contentType) {
			return data, dataText, nil
		}
		return data, dataBinary, nil
	}
	if trimmed := bytes.Trim(data, " \t\r\n"); jsontext.Value(trimmed).IsValid() {
		return trimmed, dataJSON, nil
	}
	if contentType != nil {
		return nil, dataNone, notJSON(data)
	}
	return data, dataBinary, nil
}

func notJSON(data []byte) error {
	_, err := jsontext.NewDecoder(bytes.NewBuffer(data)).ReadValue()
	if s := (*jsontext.SyntacticError)(nil); errors.As(err, &s) && tooDeep(s) {
		return invalid("data", "is nested deeper than %d levels", maxDepth)
	}
	return invalid("data", "is not the JSON that datacontenttype promises, or names a member twice")
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
