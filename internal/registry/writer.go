package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/sr"
)

// An id means a schema to one registry only. One that is set up again without its data
// gives its ids anew, and what is in Kafka would be read with other schemas. So the
// dataschema of a value names the schema's fingerprint, too, in a query, which the
// registry overlooks:
//
//	URL/subjects/SUBJECT/versions/N?sha256=FINGERPRINT
//
// Whoever reads the value uses no schema with another fingerprint. When the registry has
// another schema under the id, or none, the version that is named is looked at: where
// the producers have registered the same schema again it is there, under a new id.
const fingerprintQuery = "?sha256="

const (
	fingerprintLen = 32 // of 16 bytes in hex
	maxSubject     = 255
)

// writer names the schema that a value was written with. The strings are "" if the
// value does not say.
type writer struct {
	id               int
	fingerprint      string
	subject, version string // in the registry, still escaped
}

// dataSchema is the address of a version, with a fingerprint.
func dataSchema(registry, subject string, version int, fingerprint string) string {
	return fmt.Sprintf("%s/subjects/%s/versions/%d%s%s", registry, url.PathEscape(subject), version, fingerprintQuery, fingerprint)
}

// writerOf reads what dataSchema makes. Any other address names nothing but itself.
func writerOf(id int, address string) writer {
	address, fingerprint, ok := strings.Cut(address, fingerprintQuery)
	if !ok || !isFingerprint(fingerprint) {
		return writer{id: id}
	}
	w := writer{id: id, fingerprint: fingerprint}
	if i := strings.LastIndex(address, "/subjects/"); i >= 0 {
		subject, version, ok := strings.Cut(address[i+len("/subjects/"):], "/versions/")
		if ok && len(subject) <= maxSubject && len(version) <= len("2147483647") {
			w.subject, w.version = subject, version
		}
	}
	return w
}

func isFingerprint(s string) bool {
	return len(s) == fingerprintLen && strings.Trim(s, "0123456789abcdef") == ""
}

// clone does not keep the address in memory from which w was cut.
func (w writer) clone() writer {
	return writer{w.id, strings.Clone(w.fingerprint), strings.Clone(w.subject), strings.Clone(w.version)}
}

// fetch asks the registry for the schema of w: for that of its id and, if this is not
// the one, for the version that w names.
func (c *Client) fetch(ctx context.Context, w writer) (sr.Schema, error) {
	found, err := c.api.SchemaByID(ctx, w.id)
	if _, wrong := use(w, found, err); !isDenial(wrong) || w.fingerprint == "" {
		return found, err
	}
	subject, escaped := url.PathUnescape(w.subject)
	version, number := strconv.Atoi(w.version)
	if escaped != nil || number != nil || subject == "" {
		return found, err
	}
	named, missing := c.api.SchemaByVersion(sr.WithParams(ctx, sr.ShowDeleted), subject, version)
	if _, wrong := use(w, named.Schema, missing); wrong == nil {
		return named.Schema, nil
	}
	return found, err
}

// UnknownError says that the registry has no schema under an id.
type UnknownError struct{ ID int }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("the schema registry has no schema with id %d", e.ID)
}

// OtherError says that the registry has another schema under an id than the one that
// the value was written with.
type OtherError struct {
	ID          int
	Fingerprint string // of the writer's schema
}

func (e *OtherError) Error() string {
	return fmt.Sprintf("the schema registry has another schema with id %d than the data was written with (sha256=%s); register that again, or restore the registry's data", e.ID, e.Fingerprint)
}

// UnusableError says that nothing can be read with the schema of an id.
type UnusableError struct {
	ID  int
	Err error
}

func (e *UnusableError) Error() string { return fmt.Sprintf("schema %d: %v", e.ID, e.Err) }
func (e *UnusableError) Unwrap() error { return e.Err }

// isDenial reports whether the registry has answered that it does not have a schema.
func isDenial(err error) bool {
	return errors.As(err, new(*UnknownError)) || errors.As(err, new(*OtherError))
}

var errNoRegistry = errors.New("the answer has no schema; see SCHEMA_REGISTRY_URL")

// use makes a schema of what the registry has answered for w.
func use(w writer, found sr.Schema, err error) (*Schema, error) {
	switch {
	case hasCode(err, noSchema):
		return nil, &UnknownError{w.id}
	case err != nil:
		return nil, err
	case found.Schema == "":
		return nil, errNoRegistry
	case found.Type != sr.TypeAvro:
		return nil, &UnusableError{w.id, fmt.Errorf("it is a schema of type %s, want AVRO", found.Type)}
	case len(found.References) > 0:
		return nil, &UnusableError{w.id, errors.New("it refers to other schemas, which is not supported; deliver the events with data: as-is")}
	}
	schema, err := ParseSchema(found.Schema)
	if err != nil {
		return nil, &UnusableError{w.id, err}
	}
	if w.fingerprint != "" && schema.Fingerprint != w.fingerprint {
		return nil, &OtherError{w.id, w.fingerprint}
	}
	return schema, nil
}
