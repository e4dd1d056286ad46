package postgres

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// With synchronous standbys a COMMIT is on the disk of this server first, and then waits,
// invisible to others, until a standby has it. A wait that is cancelled ends as if a
// standby had it: the COMMIT succeeds, with a warning, and all see what a failover
// would lose. So
//
//   - nobody here cancels: pgx asks the server to when it closes a session whose context
//     has ended. Without that the COMMIT of such a session goes on waiting, and its locks
//     stay, until a standby is back (neverCancel). How many wait is bounded (maxWaiting).
//   - a COMMIT that somebody else has cancelled is no success (Confirmed),
//   - an answer that rests on what was found waits as well (Mark): an administrator, or a
//     restart of the server, may have ended the wait of who wrote it.

// Mark makes a transaction that has written nothing wait at its COMMIT as any other does.
// It confirms all that was committed before.
const Mark = "SELECT pg_logical_emit_message(true, 'taskwire', '')"

// ErrUnconfirmed is a COMMIT whose wait for a standby was cancelled.
var ErrUnconfirmed = errors.New("the wait for a synchronous standby was cancelled, so the commit may be lost in a failover")

// ErrNoStandby is a server on which many commits wait for a standby.
var ErrNoStandby = errors.New("commits wait on this PostgreSQL server for a synchronous standby (synchronous_standby_names); start one")

// maxWaiting is how many sessions of a role may wait for a standby when another one begins.
const maxWaiting = 64

const waitCancelled = "taskwire: wait for a standby cancelled"

// noteUnconfirmed sees the warning before the COMMIT is answered like any other.
func noteUnconfirmed(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.Routine == "SyncRepWaitForLSN" {
		conn.CustomData()[waitCancelled] = true
	}
}

// Confirmed returns ErrUnconfirmed if a COMMIT of the session was not confirmed since the
// last call.
func Confirmed(conn *pgconn.PgConn) error {
	if conn.CustomData()[waitCancelled] == nil {
		return nil
	}
	delete(conn.CustomData(), waitCancelled)
	return ErrUnconfirmed
}

// neverCancel is for one session: what dials after it is up would be a cancel request.
func neverCancel(config *pgx.ConnConfig) {
	var up atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if up.Load() {
			return nil, errors.New("sessions send no cancel requests")
		}
		return dial(ctx, network, address)
	}
	config.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		up.Store(true)
		return nil
	}
}
