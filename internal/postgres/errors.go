package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// The classes and codes that callers tell apart, from appendix A of PostgreSQL's
// manual.
const (
	UniqueViolation = "23505"
	LockTimeout     = "55P03"
	Deadlock        = "40P01"
	Serialization   = "40001"
)

// Code is the SQLSTATE of err, "" when the server did not say any.
func Code(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Unavailable reports whether err passes by itself, so that it is worth waiting:
// the server cannot be reached, starts or stops, has no session left, or is a
// standby. A refused password, an unknown database and a setting that loses data
// are mistakes of a person.
func Unavailable(err error) bool {
	if code := Code(err); code != "" {
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P") || code == "25006"
	}
	var network net.Error
	var op *net.OpError
	return errors.Is(err, ErrStandby) || errors.Is(err, ErrNoStandby) || errors.As(err, &network) || errors.As(err, &op) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// RolledBack reports whether err, from a transaction whose COMMIT may have been
// sent, proves that nothing of it was committed. Only an answer of the session
// that goes on proves it: a session that ends, by a fault of the network or at an
// administrator's command, may have committed before.
func RolledBack(err error) bool {
	e := (*pgconn.PgError)(nil)
	return errors.As(err, &e) && (e.SeverityUnlocalized == "ERROR" || e.SeverityUnlocalized == "" && e.Severity == "ERROR")
}
