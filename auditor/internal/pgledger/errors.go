package pgledger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/postgres"
)

// An UnavailableError: the database did not answer, or would not. Whether a batch
// that was being committed is in the log is unknown; nobody was told that it is,
// and the same events again are found if so.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return "audit database unavailable: " + e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// A SchemaError: the database is not what this program works with.
type SchemaError struct{ Reason string }

func (e *SchemaError) Error() string { return e.Reason }

const diskFull = "53100"

func schemaError(format string, args ...any) error {
	return &SchemaError{fmt.Sprintf(format, args...)}
}

// classify says what an error of the database means for what follows:
//
//	no room                                  *ledger.FullError: a later batch may succeed
//	a server that may lose what it confirms,
//	tables or constraints that are broken    *ledger.FaultError: a person has to look
//	anything else                            *UnavailableError: try again
func classify(err error) error {
	var unsafe *postgres.UnsafeError
	var newer *postgres.NewerError
	var schema *SchemaError
	var fault *ledger.FaultError
	code := postgres.Code(err)
	switch {
	case err == nil, errors.As(err, &fault):
		return err
	case errors.As(err, &unsafe), errors.As(err, &newer), errors.As(err, &schema), strings.HasPrefix(code, "23"), strings.HasPrefix(code, "42"):
		return &ledger.FaultError{Err: fmt.Errorf("audit database: %w", err)}
	case code == diskFull:
		return &ledger.FullError{Err: err}
	}
	return &UnavailableError{err}
}
