package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"

	"github.com/twmb/franz-go/pkg/sr"
)

// Registered is a schema that the registry has.
type Registered struct {
	ID          int
	Version     int
	Fingerprint string // see Schema
	DataSchema  string // the address of the version, with the fingerprint
}

// RefusedError says that the registry has refused a schema, and why. Asking again
// changes nothing.
type RefusedError struct {
	Subject string
	Reason  string // the registry's
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the schema registry refuses the schema for subject %s: %s", e.Subject, e.Reason)
}

// Register registers an Avro schema under subject, which accepts only what can read
// the versions before it, or returns what it was registered as. Its error is a
// *RefusedError when the registry has refused it.
//
// The subject's compatibility is looked at on both sides of the registration: some
// registries have none for a subject without a version. Levels that promise more
// than BACKWARD are left alone. What is returned is what readers get by its id: nothing
// is to be written with an id that a replica does not know yet, or that a registry
// whose data was restored in part gives to another schema.
func (c *Client) Register(ctx context.Context, subject, schema string) (Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	parsed, err := ParseSchema(schema)
	if err != nil {
		return Registered{}, err
	}
	if err := c.protect(ctx, subject); err != nil {
		return Registered{}, err
	}
	found, err := c.register(ctx, subject, schema)
	if err != nil {
		return Registered{}, refused(subject, err)
	}
	if err := c.protect(ctx, subject); err != nil {
		return Registered{}, err
	}
	if found.ID <= 0 || found.ID > math.MaxInt32 || found.Version <= 0 {
		return Registered{}, errors.New("schema registry: the answer has no id and version, or an id of more than 31 bits; see SCHEMA_REGISTRY_URL")
	}
	r := Registered{found.ID, found.Version, parsed.Fingerprint, dataSchema(c.cfg.URL, subject, found.Version, parsed.Fingerprint)}
	has, err := c.Has(ctx, r)
	if err != nil {
		return Registered{}, err
	}
	if !has {
		return Registered{}, fmt.Errorf("schema registry: readers do not get the schema of subject %s under the id %d that it is registered with: a replica lags behind, or not all of the registry's data was restored", subject, r.ID)
	}
	return r, nil
}

// register looks first: who may read the subject, but not write it, needs no more when
// the schema is there. A version that was deleted softly is registered again, under the
// same id: readers can do without it, but compatibility is checked with what is there.
func (c *Client) register(ctx context.Context, subject, schema string) (sr.SubjectSchema, error) {
	found, err := c.api.LookupSchema(ctx, subject, sr.Schema{Schema: schema})
	if !hasCode(err, noSubject, noVersion, noSchema, subjectDeleted, versionDeleted) {
		return found, err
	}
	if _, err = c.api.RegisterSchema(ctx, subject, sr.Schema{Schema: schema}, -1, -1); err != nil {
		return found, err
	}
	return c.api.LookupSchema(ctx, subject, sr.Schema{Schema: schema})
}

// Has reports whether a reader that asks the registry for the id of r gets its schema.
func (c *Client) Has(ctx context.Context, r Registered) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w := writer{id: r.ID, fingerprint: r.Fingerprint}
	found, err := c.api.SchemaByID(ctx, r.ID)
	_, err = use(w, found, err)
	switch {
	case err == nil:
		return true, nil
	case isDenial(err) || errors.As(err, new(*UnusableError)):
		return false, nil
	}
	return false, explain(err)
}

// protect sees that subject refuses what cannot read its versions.
func (c *Client) protect(ctx context.Context, subject string) error {
	now := c.api.Compatibility(ctx, subject)[0]
	if now.Err != nil && !hasCode(now.Err, noSubject, noLevel) {
		return explain(now.Err)
	}
	switch now.Level {
	case sr.CompatBackward, sr.CompatBackwardTransitive, sr.CompatFull, sr.CompatFullTransitive:
		return nil
	}
	set := c.api.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward}, subject)[0]
	if set.Err != nil && !hasCode(set.Err, noSubject) {
		return fmt.Errorf("set the compatibility of subject %s to BACKWARD: %w", subject, explain(set.Err))
	}
	return nil
}

// refused tells a registry that says no from one that cannot answer.
func refused(subject string, err error) error {
	var answer *sr.ResponseError
	if errors.As(err, &answer) && !hasCode(err, notPermitted) && (answer.StatusCode == http.StatusConflict || answer.StatusCode == http.StatusUnprocessableEntity) {
		return &RefusedError{subject, answer.Error()}
	}
	return explain(err)
}
